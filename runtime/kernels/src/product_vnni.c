/* Products for x86 with AVX-512 and VNNI.
 *
 * vpdpbusd multiplies four unsigned bytes of the matrix with four signed ones of x and adds them up in 32 bits, so that
 * nothing saturates and what the matrix's values are counted from is taken away at the end, as often as x's sum.
 */
#include <immintrin.h>
#include <string.h>

#include "product.h"

#define VNNI __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")))
#define INLINE __attribute__((always_inline)) static inline

enum { WIDE = 16, LANES = 2 * WIDE }; /* rows of the matrix in a register, and at a time */
_Static_assert(MOST_LANES % LANES == 0, "a thread's share begins in the middle of interleaved rows");
enum { TILE = 4, CHUNK = 16 }; /* rows of x: multiplied at a time, and kept in the first cache meanwhile */

VNNI INLINE __m512i four(const int8_t *x) {
    int32_t bytes;
    memcpy(&bytes, x, 4);
    return _mm512_set1_epi32(bytes);
}

/* LANES rows of the matrix times `rows` (1 to TILE) of x. Always inlined with constants: every form is a loop without
 * branches, whose sums stay in registers. */
VNNI INLINE void tile(const Matrix *m, const uint8_t *record, const int8_t *x, const float *x_scales,
                      const int32_t *x_sums, int bits, int shifted, int rows, __m512 sums[TILE][2]) {
    const __m512i halves = _mm512_set1_epi8(15);
    const int64_t width = m->blocks * m->block, size = LANES * m->block * bits / 8, next = size + LANES * (shifted ? 8 : 4);
    for (int r = 0; r < rows; r++) sums[r][0] = sums[r][1] = _mm512_setzero_ps();
    for (int64_t b = 0; b < m->blocks; b++, record += next, x += m->block) {
        const float *scale = (const float *)(record + size);
        __m512i dot[TILE][2];
        for (int r = 0; r < rows; r++)
            for (int h = 0; h < 2; h++) {
                const int32_t sum = x_sums[r * m->blocks + b];
                if (shifted)
                    dot[r][h] = _mm512_mullo_epi32(_mm512_loadu_si512(scale + LANES + h * WIDE), _mm512_set1_epi32(-sum));
                else
                    dot[r][h] = _mm512_set1_epi32((bits == 4 ? -8 : -128) * sum);
            }
        if (bits == 8)
            for (int64_t i = 0; i < m->block; i += 4) {
                const __m512i *w = (const __m512i *)(record + i * LANES);
                const __m512i first = _mm512_loadu_si512(w), second = _mm512_loadu_si512(w + 1);
                for (int r = 0; r < rows; r++) {
                    const __m512i columns = four(x + r * width + i);
                    dot[r][0] = _mm512_dpbusd_epi32(dot[r][0], first, columns);
                    dot[r][1] = _mm512_dpbusd_epi32(dot[r][1], second, columns);
                }
            }
        else
            for (int64_t i = 0; i < m->block; i += 8) {
                const __m512i *w = (const __m512i *)(record + i / 2 * LANES);
                const __m512i first = _mm512_loadu_si512(w), second = _mm512_loadu_si512(w + 1);
                const __m512i low[] = {_mm512_and_si512(first, halves), _mm512_and_si512(second, halves)};
                const __m512i high[] = {_mm512_and_si512(_mm512_srli_epi16(first, 4), halves),
                                        _mm512_and_si512(_mm512_srli_epi16(second, 4), halves)};
                for (int r = 0; r < rows; r++)
                    for (int h = 0; h < 2; h++) {
                        const int8_t *at = x + r * width + i;
                        dot[r][h] = _mm512_dpbusd_epi32(dot[r][h], low[h], four(at));
                        dot[r][h] = _mm512_dpbusd_epi32(dot[r][h], high[h], four(at + 4));
                    }
            }
        for (int h = 0; h < 2; h++) {
            const __m512 scales = _mm512_loadu_ps(scale + h * WIDE);
            for (int r = 0; r < rows; r++) {
                const __m512 factor = _mm512_mul_ps(scales, _mm512_set1_ps(x_scales[r * m->blocks + b]));
                sums[r][h] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot[r][h]), factor, sums[r][h]);
            }
        }
    }
}

VNNI INLINE void strip(const Matrix *m, const Activations *x, int64_t row, int64_t n, int bits, int shifted, int rows,
                       const float *residual, float *y) {
    __m512 sums[TILE][2];
    const uint8_t *record = m->packed + (size_t)(n / LANES * m->blocks) * stride(m);
    const int8_t *values = x->values + row * m->blocks * m->block;
    tile(m, record, values, x->scales + row * m->blocks, x->sums + row * m->blocks, bits, shifted, rows, sums);
    for (int h = 0; h < 2; h++, n += WIDE) {
        const int64_t left = m->n - n;
        if (left <= 0) return;
        const __mmask16 there = left < WIDE ? (__mmask16)((1 << left) - 1) : 0xffff;
        const __m512 bias = m->bias ? _mm512_maskz_loadu_ps(there, m->bias + n) : _mm512_setzero_ps();
        for (int r = 0; r < rows; r++) {
            const int64_t at = (row + r) * m->n + n;
            __m512 result = _mm512_add_ps(sums[r][h], bias);
            if (residual) result = _mm512_add_ps(result, _mm512_maskz_loadu_ps(there, residual + at));
            _mm512_mask_storeu_ps(y + at, there, result);
        }
    }
}

VNNI INLINE void all(const Matrix *m, const Activations *x, int64_t rows, int64_t first, int64_t last, int bits,
                     int shifted, const float *residual, float *y) {
    for (int64_t chunk = 0; chunk < rows; chunk += CHUNK) {
        const int64_t end = chunk + CHUNK < rows ? chunk + CHUNK : rows;
        for (int64_t n = first; n < last; n += LANES) {
            int64_t row = chunk;
            for (; row + TILE <= end; row += TILE) strip(m, x, row, n, bits, shifted, TILE, residual, y);
            /* The rest in one go: a few rows take as long as one, the time that reading the matrix takes. */
            if (end - row == 3) strip(m, x, row, n, bits, shifted, 3, residual, y);
            else if (end - row == 2) strip(m, x, row, n, bits, shifted, 2, residual, y);
            else if (end - row == 1) strip(m, x, row, n, bits, shifted, 1, residual, y);
        }
    }
}

VNNI static void multiply(const Matrix *m, const Activations *x, int64_t rows, int64_t first, int64_t last,
                          const float *residual, float *y) {
    if (m->bits == 8 && m->shifted) all(m, x, rows, first, last, 8, 1, residual, y);
    else if (m->bits == 8) all(m, x, rows, first, last, 8, 0, residual, y);
    else if (m->shifted) all(m, x, rows, first, last, 4, 1, residual, y);
    else all(m, x, rows, first, last, 4, 0, residual, y);
}

const Multiplier vnni_multiplier = {.lanes = LANES, .is_signed = 0, .multiply = multiply};

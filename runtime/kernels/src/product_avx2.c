/* Products for x86 with AVX2.
 *
 * Bytes are multiplied by vpmaddubsw, unsigned times signed, which adds pairs in 16 bits: with 4 bits at most
 * 2 * 15 * 127, so that eight of them fit; with 8 bits |w| times x with w's sign, at most 2 * 128 * 127, which just fits.
 */
#include "product.h"

#include <string.h>

#include "avx2.h"

enum { LANES = 8 };
_Static_assert(MOST_LANES % LANES == 0, "a thread's share begins in the middle of interleaved rows");
enum { TILE = 4, CHUNK = 16 }; /* rows of x: multiplied at a time, and kept in the first cache meanwhile */

AVX2 static inline __m256i four(const int8_t *x) {
    int32_t bytes;
    memcpy(&bytes, x, 4);
    return _mm256_set1_epi32(bytes);
}

/* LANES rows of the matrix times `rows` (1 to TILE) of x. Always inlined with constants: every form is a loop without
 * branches, whose sums stay in registers. */
AVX2 __attribute__((always_inline)) static inline void tile(const Matrix *m, const uint8_t *record, const int8_t *x,
                                                            const float *x_scales, const int32_t *x_sums, int bits,
                                                            int shifted, int rows, __m256 *sums) {
    const __m256i ones = _mm256_set1_epi16(1), halves = _mm256_set1_epi8(15);
    const int64_t width = m->blocks * m->block, size = LANES * m->block * bits / 8, next = size + LANES * (shifted ? 8 : 4);
    for (int r = 0; r < rows; r++) sums[r] = _mm256_setzero_ps();
    for (int64_t b = 0; b < m->blocks; b++, record += next, x += m->block) {
        const float *scale = (const float *)(record + size);
        __m256i dot[TILE];
        for (int r = 0; r < rows; r++) {
            const int32_t sum = x_sums[r * m->blocks + b];
            if (shifted)
                dot[r] = _mm256_mullo_epi32(_mm256_loadu_si256((const __m256i *)(scale + LANES)), _mm256_set1_epi32(-sum));
            else
                dot[r] = _mm256_set1_epi32(bits == 4 ? -8 * sum : 0);
        }
        if (bits == 8) {
            for (int64_t i = 0; i < m->block; i += 4) {
                const __m256i w = _mm256_loadu_si256((const __m256i *)(record + i * LANES)), positive = _mm256_abs_epi8(w);
                for (int r = 0; r < rows; r++) {
                    const __m256i pairs = _mm256_maddubs_epi16(positive, _mm256_sign_epi8(four(x + r * width + i), w));
                    dot[r] = _mm256_add_epi32(dot[r], _mm256_madd_epi16(pairs, ones));
                }
            }
        } else {
            for (int64_t i = 0; i < m->block; i += 16) {
                __m256i pairs[TILE];
                for (int j = 0; j < 16; j += 8) {
                    const __m256i w = _mm256_loadu_si256((const __m256i *)(record + (i + j) / 2 * LANES));
                    const __m256i low = _mm256_and_si256(w, halves);
                    const __m256i high = _mm256_and_si256(_mm256_srli_epi16(w, 4), halves);
                    for (int r = 0; r < rows; r++) {
                        const int8_t *at = x + r * width + i + j;
                        const __m256i both = _mm256_add_epi16(_mm256_maddubs_epi16(low, four(at)),
                                                              _mm256_maddubs_epi16(high, four(at + 4)));
                        pairs[r] = j ? _mm256_add_epi16(pairs[r], both) : both;
                    }
                }
                for (int r = 0; r < rows; r++) dot[r] = _mm256_add_epi32(dot[r], _mm256_madd_epi16(pairs[r], ones));
            }
        }
        const __m256 scales = _mm256_loadu_ps(scale);
        for (int r = 0; r < rows; r++) {
            const __m256 factor = _mm256_mul_ps(scales, _mm256_set1_ps(x_scales[r * m->blocks + b]));
            sums[r] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot[r]), factor, sums[r]);
        }
    }
}

AVX2 __attribute__((always_inline)) static inline void strip(const Matrix *m, const Activations *x, int64_t row,
                                                             int64_t n, int bits, int shifted, int rows,
                                                             const float *residual, float *y) {
    __m256 sums[TILE];
    const uint8_t *record = m->packed + (size_t)(n / LANES * m->blocks) * stride(m);
    const int8_t *values = x->values + row * m->blocks * m->block;
    tile(m, record, values, x->scales + row * m->blocks, x->sums + row * m->blocks, bits, shifted, rows, sums);
    for (int r = 0; r < rows; r++) {
        float lanes[LANES];
        _mm256_storeu_ps(lanes, sums[r]);
        for (int64_t i = 0; i < LANES && n + i < m->n; i++) {
            const int64_t at = (row + r) * m->n + n + i;
            y[at] = lanes[i] + (m->bias ? m->bias[n + i] : 0) + (residual ? residual[at] : 0);
        }
    }
}

AVX2 __attribute__((always_inline)) static inline void all(const Matrix *m, const Activations *x, int64_t rows,
                                                           int64_t first, int64_t last, int bits, int shifted,
                                                           const float *residual, float *y) {
    for (int64_t chunk = 0; chunk < rows; chunk += CHUNK) {
        const int64_t end = chunk + CHUNK < rows ? chunk + CHUNK : rows;
        for (int64_t n = first; n < last; n += LANES) {
            int64_t row = chunk;
            for (; row + TILE <= end; row += TILE) strip(m, x, row, n, bits, shifted, TILE, residual, y);
            for (; row < end; row++) strip(m, x, row, n, bits, shifted, 1, residual, y);
        }
    }
}

AVX2 static void multiply(const Matrix *m, const Activations *x, int64_t rows, int64_t first, int64_t last,
                   const float *residual, float *y) {
    if (m->bits == 8 && m->shifted) all(m, x, rows, first, last, 8, 1, residual, y);
    else if (m->bits == 8) all(m, x, rows, first, last, 8, 0, residual, y);
    else if (m->shifted) all(m, x, rows, first, last, 4, 1, residual, y);
    else all(m, x, rows, first, last, 4, 0, residual, y);
}

const Multiplier avx2_multiplier = {.lanes = LANES, .is_signed = 1, .multiply = multiply};

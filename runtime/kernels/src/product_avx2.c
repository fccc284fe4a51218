/* Products for x86 with AVX2.
 *
 * ROWS rows of the matrix lie interleaved: 32 bytes hold 4 columns of each (8 bits), or 4 in the low and 4 in the high
 * halves (4 bits). One column group of x is then the same 4 bytes for all lanes, each lane adds up one row of the
 * matrix, and nothing is summed across lanes. The scales, and zero points, follow each block of values, so that the
 * matrix is one stream of memory.
 *
 * Bytes are multiplied by vpmaddubsw, unsigned times signed, which adds pairs in 16 bits: with 4 bits at most
 * 2 * 15 * 127, so that eight of them fit; with 8 bits |w| times x with w's sign, at most 2 * 128 * 127, which just fits.
 */
#include "product.h"

#include <math.h>
#include <string.h>

#if defined(__x86_64__) || defined(_M_X64)
#include "exponential.h"

enum { TILE = 4, CHUNK = 16 }; /* rows of x: multiplied at a time, and kept in the first cache meanwhile */

static size_t values_size(const Matrix *m) { return (size_t)(ROWS * m->block * m->bits / 8); }

size_t packed_size(const Matrix *m) { return (size_t)((m->n + ROWS - 1) / ROWS * m->blocks) * m->stride; }

void pack(const Matrix *m, const uint8_t *values, const float *scales, const uint8_t *zeros) {
    const int64_t bytes = m->block * m->bits / 8, zero_bytes = (m->blocks * m->bits + 7) / 8;
    for (int64_t n = 0; n < (m->n + ROWS - 1) / ROWS * ROWS; n++) {
        for (int64_t b = 0; b < m->blocks; b++) {
            uint8_t *record = m->packed + (size_t)(n / ROWS * m->blocks + b) * m->stride;
            float *scale = (float *)(record + values_size(m)) + n % ROWS;
            int32_t *zero = (int32_t *)(record + values_size(m) + ROWS * sizeof(float)) + n % ROWS;
            uint8_t *lane = record + n % ROWS * 4;
            if (n >= m->n) { /* rows that are not there */
                *scale = 0;
                if (m->shifted) *zero = 0;
                for (int64_t i = 0; i < bytes; i += 4) memset(lane + i * ROWS, 0, 4);
                continue;
            }
            const uint8_t *from = values + (n * m->blocks + b) * bytes;
            *scale = scales[n * m->blocks + b];
            if (m->shifted) {
                const uint8_t *row = zeros + n * zero_bytes;
                *zero = m->bits == 8 ? row[b] - 128 : row[b / 2] >> (b % 2 * 4) & 15;
            }
            if (m->bits == 8)
                for (int64_t i = 0; i < bytes; i += 4) {
                    uint32_t columns;
                    memcpy(&columns, from + i, 4);
                    columns ^= 0x80808080u; /* to signed */
                    memcpy(lane + i * ROWS, &columns, 4);
                }
            else
                for (int64_t i = 0; i < m->block; i += 8)
                    for (int64_t j = 0; j < 4; j++) {
                        const uint8_t low = from[(i + j) / 2] >> (j % 2 * 4) & 15;
                        const uint8_t high = from[(i + 4 + j) / 2] >> (j % 2 * 4) & 15;
                        lane[i / 8 * 4 * ROWS + j] = (uint8_t)(low | high << 4);
                    }
        }
    }
}

AVX2 void quantize_row(const Matrix *m, const Prologue *p, const float *row_of_x, const Activations *to, int64_t row) {
    const __m256 sign = _mm256_set1_ps(-0.0f);
    const Statistics statistics = row_statistics(p, row_of_x, m->k);
    float made[LARGEST_BLOCK + 8];
    for (int64_t b = 0; b < m->blocks; b++) {
        const int64_t at = b * m->block, width = m->k - at < m->block ? m->k - at : m->block;
        const float *x = row_of_x + at;
        if (p->kind != AS_IS) {
            prologue(p, statistics, row_of_x, m->k, at, width, made);
            x = made;
        }
        int8_t *q = to->values + row * m->blocks * m->block + at;
        __m256 most = _mm256_setzero_ps();
        int64_t i = 0;
        for (; i + 8 <= width; i += 8) most = _mm256_max_ps(most, _mm256_andnot_ps(sign, _mm256_loadu_ps(x + i)));
        float lanes[8], largest = 0;
        _mm256_storeu_ps(lanes, most);
        for (int j = 0; j < 8; j++) largest = lanes[j] > largest ? lanes[j] : largest;
        for (; i < width; i++) largest = fabsf(x[i]) > largest ? fabsf(x[i]) : largest;
        const float scale = largest / 127, inverse = largest > 0 ? 127 / largest : 0;
        int32_t sum = 0;
        for (i = 0; i + 8 <= width; i += 8) {
            const __m256i v = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + i), _mm256_set1_ps(inverse)));
            const __m128i half = _mm_packs_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
            _mm_storel_epi64((__m128i *)(q + i), _mm_packs_epi16(half, half));
        }
        for (; i < width; i++) q[i] = (int8_t)lrintf(x[i] * inverse);
        memset(q + width, 0, (size_t)(m->block - width));
        for (i = 0; i < m->block; i++) sum += q[i];
        to->scales[row * m->blocks + b] = scale;
        to->sums[row * m->blocks + b] = sum;
    }
}

AVX2 static inline __m256i four(const int8_t *x) {
    int32_t bytes;
    memcpy(&bytes, x, 4);
    return _mm256_set1_epi32(bytes);
}

/* ROWS rows of the matrix times `rows` (1 to TILE) of x. Always inlined with constants: every form is a loop without
 * branches, whose sums stay in registers. */
AVX2 __attribute__((always_inline)) static inline void tile(const Matrix *m, const uint8_t *record, const int8_t *x,
                                                            const float *x_scales, const int32_t *x_sums, int bits,
                                                            int shifted, int rows, __m256 *sums) {
    const __m256i ones = _mm256_set1_epi16(1), halves = _mm256_set1_epi8(15);
    const int64_t width = m->blocks * m->block;
    for (int r = 0; r < rows; r++) sums[r] = _mm256_setzero_ps();
    for (int64_t b = 0; b < m->blocks; b++, record += m->stride, x += m->block) {
        const size_t size = values_size(m);
        const float *scale = (const float *)(record + size);
        __m256i dot[TILE];
        for (int r = 0; r < rows; r++) {
            const int32_t sum = x_sums[r * m->blocks + b];
            if (shifted)
                dot[r] = _mm256_mullo_epi32(_mm256_loadu_si256((const __m256i *)(scale + ROWS)), _mm256_set1_epi32(-sum));
            else
                dot[r] = _mm256_set1_epi32(bits == 4 ? -8 * sum : 0);
        }
        if (bits == 8) {
            for (int64_t i = 0; i < m->block; i += 4) {
                const __m256i w = _mm256_loadu_si256((const __m256i *)(record + i * ROWS)), positive = _mm256_abs_epi8(w);
                for (int r = 0; r < rows; r++) {
                    const __m256i pairs = _mm256_maddubs_epi16(positive, _mm256_sign_epi8(four(x + r * width + i), w));
                    dot[r] = _mm256_add_epi32(dot[r], _mm256_madd_epi16(pairs, ones));
                }
            }
        } else {
            for (int64_t i = 0; i < m->block; i += 16) {
                __m256i pairs[TILE];
                for (int j = 0; j < 16; j += 8) {
                    const __m256i w = _mm256_loadu_si256((const __m256i *)(record + (i + j) / 2 * ROWS));
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
    const uint8_t *record = m->packed + (size_t)(n / ROWS * m->blocks) * m->stride;
    const int8_t *values = x->values + row * m->blocks * m->block;
    tile(m, record, values, x->scales + row * m->blocks, x->sums + row * m->blocks, bits, shifted, rows, sums);
    for (int r = 0; r < rows; r++) {
        float lanes[ROWS];
        _mm256_storeu_ps(lanes, sums[r]);
        for (int64_t i = 0; i < ROWS && n + i < m->n; i++) {
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
        for (int64_t n = first; n < last; n += ROWS) {
            int64_t row = chunk;
            for (; row + TILE <= end; row += TILE) strip(m, x, row, n, bits, shifted, TILE, residual, y);
            for (; row < end; row++) strip(m, x, row, n, bits, shifted, 1, residual, y);
        }
    }
}

AVX2 void multiply(const Matrix *m, const Activations *x, int64_t rows, int64_t first, int64_t last,
                   const float *residual, float *y) {
    if (m->bits == 8 && m->shifted) all(m, x, rows, first, last, 8, 1, residual, y);
    else if (m->bits == 8) all(m, x, rows, first, last, 8, 0, residual, y);
    else if (m->shifted) all(m, x, rows, first, last, 4, 1, residual, y);
    else all(m, x, rows, first, last, 4, 0, residual, y);
}

#else

size_t packed_size(const Matrix *m) { return (void)m, 0; }
void pack(const Matrix *m, const uint8_t *v, const float *s, const uint8_t *z) { (void)m, (void)v, (void)s, (void)z; }
void quantize_row(const Matrix *m, const Prologue *p, const float *x, const Activations *to, int64_t row) {
    (void)m, (void)p, (void)x, (void)to, (void)row;
}
void multiply(const Matrix *m, const Activations *x, int64_t rows, int64_t first, int64_t last, const float *residual,
              float *y) {
    (void)m, (void)x, (void)rows, (void)first, (void)last, (void)residual, (void)y;
}

#endif

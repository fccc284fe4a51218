/* Rows to 8 bits for x86 with AVX2. */
#include <math.h>
#include <string.h>

#include "avx2.h"
#include "product.h"

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
        float reach = largest(most);
        for (; i < width; i++) reach = fabsf(x[i]) > reach ? fabsf(x[i]) : reach;
        const float scale = reach / 127, inverse = reach > 0 ? 127 / reach : 0;
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

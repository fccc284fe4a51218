/* Prologues for x86 with AVX2. */
#include "prologue.h"

#include <math.h>
#include <string.h>

#include "avx2.h"

/* Eight numbers, or as many as there are, and zeros. */
AVX2 static inline __m256 load(const float *from, int64_t count) {
    if (count >= 8) return _mm256_loadu_ps(from);
    float lanes[8] = {0};
    memcpy(lanes, from, (size_t)count * sizeof(float));
    return _mm256_loadu_ps(lanes);
}

AVX2 Statistics row_statistics(const Prologue *p, const float *x, int64_t k) {
    if (!is_norm(p)) return (Statistics){0, 1};
    float mean = 0;
    if (p->kind == LAYER_NORM) {
        __m256 total = _mm256_setzero_ps();
        for (int64_t i = 0; i < k; i += 8) total = _mm256_add_ps(total, load(x + i, k - i));
        mean = sum(total) / (float)k;
    }
    __m256 squares = _mm256_setzero_ps();
    int64_t i = 0;
    for (; i + 8 <= k; i += 8) {
        const __m256 away = _mm256_sub_ps(_mm256_loadu_ps(x + i), _mm256_set1_ps(mean));
        squares = _mm256_fmadd_ps(away, away, squares);
    }
    float total = sum(squares);
    for (; i < k; i++) total += (x[i] - mean) * (x[i] - mean);
    return (Statistics){mean, 1 / sqrtf(total / (float)k + p->epsilon)};
}

/* 1 / (1 + e^-x), without large powers. */
AVX2 static inline __m256 sigmoid(__m256 x) {
    const __m256 one = _mm256_set1_ps(1), sign = _mm256_set1_ps(-0.0f);
    const __m256 e = exponential(_mm256_or_ps(x, sign));
    return _mm256_div_ps(_mm256_blendv_ps(one, e, x), _mm256_add_ps(one, e));
}

/* To 1.5e-7: Abramowitz and Stegun, 7.1.26. */
AVX2 static inline __m256 error_function(__m256 x) {
    const __m256 one = _mm256_set1_ps(1), sign = _mm256_set1_ps(-0.0f), size = _mm256_andnot_ps(sign, x);
    const __m256 t = _mm256_div_ps(one, _mm256_fmadd_ps(_mm256_set1_ps(0.3275911f), size, one));
    __m256 p = _mm256_set1_ps(1.061405429f);
    p = _mm256_fmadd_ps(p, t, _mm256_set1_ps(-1.453152027f));
    p = _mm256_fmadd_ps(p, t, _mm256_set1_ps(1.421413741f));
    p = _mm256_fmadd_ps(p, t, _mm256_set1_ps(-0.284496736f));
    p = _mm256_fmadd_ps(p, t, _mm256_set1_ps(0.254829592f));
    const __m256 rest = _mm256_mul_ps(_mm256_mul_ps(p, t), exponential(_mm256_mul_ps(_mm256_or_ps(size, sign), size)));
    return _mm256_or_ps(_mm256_sub_ps(one, rest), _mm256_and_ps(sign, x));
}

/* x sigmoid(y): what x is does not matter where the sigmoid is as good as zero, but its size would. NaN stays. */
AVX2 static inline __m256 times_sigmoid(__m256 x, __m256 y) {
    return _mm256_mul_ps(_mm256_max_ps(_mm256_set1_ps(-88), x), sigmoid(y));
}

AVX2 static inline __m256 activation(int64_t kind, __m256 x) {
    if (kind == SILU) return times_sigmoid(x, x);
    if (kind == RELU) return _mm256_max_ps(x, _mm256_setzero_ps());
    if (kind == GELU) {
        const __m256 half = _mm256_mul_ps(x, _mm256_set1_ps(0.5f));
        return _mm256_fmadd_ps(half, error_function(_mm256_mul_ps(x, _mm256_set1_ps(0.70710678f))), half);
    }
    /* x (1 + tanh u) / 2 is x sigmoid(2 u), with u = sqrt(2 / pi) (x + 0.044715 x^3). */
    const __m256 square = _mm256_mul_ps(x, x);
    const __m256 factor = _mm256_fmadd_ps(square, _mm256_set1_ps(0.0713548163f), _mm256_set1_ps(1.59576912f));
    return times_sigmoid(x, _mm256_mul_ps(x, factor));
}

/* Always inlined, with constants where it counts: a loop of its own for each usual kind, without branches. */
AVX2 __attribute__((always_inline)) static inline void apply(int64_t kind, int normalizes, int gated, const Prologue *p,
                                                             Statistics s, const float *x, int64_t k, int64_t at,
                                                             int64_t width, float *to) {
    for (int64_t i = 0; i < width; i += 8) {
        const int64_t j = at + i, left = width - i;
        __m256 y = load(x + j, left);
        if (normalizes) {
            const __m256 factor = _mm256_mul_ps(load(p->scale + j, left), _mm256_set1_ps(s.factor));
            const __m256 bias = p->bias ? load(p->bias + j, left) : _mm256_setzero_ps();
            y = _mm256_fmadd_ps(_mm256_sub_ps(y, _mm256_set1_ps(s.mean)), factor, bias);
        } else {
            y = activation(kind, y);
            if (gated) y = _mm256_mul_ps(y, load(x + k + j, left));
        }
        _mm256_storeu_ps(to + i, y);
    }
}

AVX2 void prologue(const Prologue *p, Statistics s, const float *x, int64_t k, int64_t at, int64_t width, float *to) {
    if (is_norm(p)) apply(p->kind, 1, 0, p, s, x, k, at, width, to);
    else if (p->kind == SILU && p->gated) apply(SILU, 0, 1, p, s, x, k, at, width, to);
    else if (p->kind == GELU_TANH && !p->gated) apply(GELU_TANH, 0, 0, p, s, x, k, at, width, to);
    else if (p->kind == GELU && !p->gated) apply(GELU, 0, 0, p, s, x, k, at, width, to);
    else apply(p->kind, 0, (int)p->gated, p, s, x, k, at, width, to);
}

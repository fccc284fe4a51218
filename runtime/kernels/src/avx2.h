/* What kernels for AVX2 share. */
#pragma once
#include <immintrin.h>

#define AVX2 __attribute__((target("avx2,fma")))

/* e to the x for eight x <= 0, to 2e-7 of it: 2 to the whole part of x / ln 2, by the exponent's bits, times a polynomial of the rest (Cephes,
 * expf). */
AVX2 static inline __m256 exponential(__m256 x) {
    x = _mm256_max_ps(x, _mm256_set1_ps(-87.0f));
    const __m256 whole = _mm256_round_ps(_mm256_mul_ps(x, _mm256_set1_ps(1.44269504f)), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m256 rest = _mm256_fnmadd_ps(whole, _mm256_set1_ps(0.693359375f), x);
    rest = _mm256_fnmadd_ps(whole, _mm256_set1_ps(-2.12194440e-4f), rest);
    __m256 p = _mm256_set1_ps(1.9875691500e-4f);
    p = _mm256_fmadd_ps(p, rest, _mm256_set1_ps(1.3981999507e-3f));
    p = _mm256_fmadd_ps(p, rest, _mm256_set1_ps(8.3334519073e-3f));
    p = _mm256_fmadd_ps(p, rest, _mm256_set1_ps(4.1665795894e-2f));
    p = _mm256_fmadd_ps(p, rest, _mm256_set1_ps(1.6666665459e-1f));
    p = _mm256_fmadd_ps(p, rest, _mm256_set1_ps(5.0000001201e-1f));
    p = _mm256_add_ps(_mm256_fmadd_ps(p, _mm256_mul_ps(rest, rest), rest), _mm256_set1_ps(1.0f));
    const __m256i bits = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(whole), _mm256_set1_epi32(127)), 23);
    return _mm256_mul_ps(p, _mm256_castsi256_ps(bits));
}

AVX2 static inline float sum(__m256 x) {
    float lanes[8], total = 0;
    _mm256_storeu_ps(lanes, x);
    for (int i = 0; i < 8; i++) total += lanes[i];
    return total;
}

AVX2 static inline float largest(__m256 x) {
    float lanes[8];
    _mm256_storeu_ps(lanes, x);
    for (int i = 1; i < 8; i++) lanes[0] = lanes[i] > lanes[0] ? lanes[i] : lanes[0];
    return lanes[0];
}

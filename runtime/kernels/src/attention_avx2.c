/* Attention of few queries for x86 with AVX2: what takes the time is reading the keys.
 *
 * Four queries are multiplied with each key while it is in registers: in a decoder with grouped heads those of a group,
 * behind a prompt those of neighbouring positions. Scores lie as (key, query), so that a register holds two keys of all
 * four.
 */
#include "attention.h"

#include <string.h>

#include "avx2.h"

enum { PIECE = 128 }; /* keys at a time */

void rotate(const Heads *h, const float *from, int64_t position, float factor, float *to) {
    for (int64_t i = 0; i < h->size; i++) to[i] = from[i] * factor;
    if (!h->rotates) return;
    const float *cos = h->cos + position * h->pairs, *sin = h->sin + position * h->pairs;
    const int64_t step = h->interleaved ? 2 : 1, apart = h->interleaved ? 1 : h->pairs;
    for (int64_t i = 0; i < h->pairs; i++) {
        const float a = to[i * step], b = to[i * step + apart];
        to[i * step] = a * cos[i] - b * sin[i];
        to[i * step + apart] = b * cos[i] + a * sin[i];
    }
}

/* Scores of the four queries for `count` keys, to (count, FEW). */
AVX2 static inline void score(int64_t size, int64_t count, const float *queries, const float *keys, float *scores) {
    for (int64_t j = 0; j < count; j++, keys += size) {
        __m256 a = _mm256_setzero_ps(), b = a, c = a, d = a;
        for (int64_t i = 0; i < size; i += 8) {
            const __m256 key = _mm256_loadu_ps(keys + i);
            a = _mm256_fmadd_ps(key, _mm256_loadu_ps(queries + i), a);
            b = _mm256_fmadd_ps(key, _mm256_loadu_ps(queries + size + i), b);
            c = _mm256_fmadd_ps(key, _mm256_loadu_ps(queries + 2 * size + i), c);
            d = _mm256_fmadd_ps(key, _mm256_loadu_ps(queries + 3 * size + i), d);
        }
        const __m256 sums = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
        _mm_storeu_ps(scores + j * FEW, _mm_add_ps(_mm256_castps256_ps128(sums), _mm256_extractf128_ps(sums, 1)));
    }
}

/* Adds `count` values, weighted, to the sums (FEW, size), which are multiplied by `kept` before. */
AVX2 static inline void weigh(int64_t size, int64_t count, const float *weights, const float *values, const float *kept,
                              float *sums) {
    for (int64_t i = 0; i < size; i += 8) {
        __m256 sum[FEW];
        for (int r = 0; r < FEW; r++)
            sum[r] = _mm256_mul_ps(_mm256_loadu_ps(sums + r * size + i), _mm256_set1_ps(kept[r]));
        for (int64_t j = 0; j < count; j++) {
            const __m256 value = _mm256_loadu_ps(values + j * size + i);
            for (int r = 0; r < FEW; r++)
                sum[r] = _mm256_fmadd_ps(value, _mm256_broadcast_ss(weights + j * FEW + r), sum[r]);
        }
        for (int r = 0; r < FEW; r++) _mm256_storeu_ps(sums + r * size + i, sum[r]);
    }
}

AVX2 static inline __m128 halves_max(__m256 x) {
    return _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
}

AVX2 static inline __m256 twice(__m128 x) { return _mm256_set_m128(x, x); }

/* The same for a query alone, as in a decoder whose heads have keys of their own: four keys at a time. */
AVX2 static void attend_alone(int64_t size, const float *query, const float *keys, const float *values, int64_t visible,
                              float *output) {
    float scores[PIECE + 8], largest = HIDDEN, total = 0;
    memset(output, 0, sizeof(float) * (size_t)size);
    for (int64_t start = 0; start < visible; start += PIECE) {
        const int64_t piece = visible - start < PIECE ? visible - start : PIECE;
        const float *key = keys + start * size, *value = values + start * size;
        for (int64_t j = 0; j < piece; j += 4, key += 4 * size) {
            const int64_t left = piece - j; /* fewer than four keys: the last one again */
            const float *second = key + (left > 1 ? size : 0), *third = key + (left > 2 ? 2 * size : 0);
            const float *fourth = key + (left > 3 ? 3 * size : 0);
            __m256 a = _mm256_setzero_ps(), b = a, c = a, d = a;
            for (int64_t i = 0; i < size; i += 8) {
                const __m256 q = _mm256_loadu_ps(query + i);
                a = _mm256_fmadd_ps(q, _mm256_loadu_ps(key + i), a);
                b = _mm256_fmadd_ps(q, _mm256_loadu_ps(second + i), b);
                c = _mm256_fmadd_ps(q, _mm256_loadu_ps(third + i), c);
                d = _mm256_fmadd_ps(q, _mm256_loadu_ps(fourth + i), d);
            }
            const __m256 sums = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
            _mm_storeu_ps(scores + j, _mm_add_ps(_mm256_castps256_ps128(sums), _mm256_extractf128_ps(sums, 1)));
        }
        for (int64_t j = piece; j < (piece + 7) / 8 * 8; j++) scores[j] = HIDDEN;
        const float before = largest;
        for (int64_t j = 0; j < piece; j++) largest = scores[j] > largest ? scores[j] : largest;
        float lanes[8];
        __m256 added = _mm256_setzero_ps();
        for (int64_t j = 0; j < piece; j += 8) {
            const __m256 weight = exponential(_mm256_sub_ps(_mm256_loadu_ps(scores + j), _mm256_set1_ps(largest)));
            _mm256_storeu_ps(scores + j, weight);
            added = _mm256_add_ps(added, weight);
        }
        const __m256 kept = exponential(_mm256_set1_ps(before - largest));
        _mm256_storeu_ps(lanes, added);
        total *= _mm256_cvtss_f32(kept);
        for (int i = 0; i < 8; i++) total += lanes[i];
        for (int64_t i = 0; i < size; i += 32) {
            const int64_t parts = size - i < 32 ? (size - i) / 8 : 4;
            __m256 sums[4];
            for (int64_t p = 0; p < parts; p++) sums[p] = _mm256_mul_ps(_mm256_loadu_ps(output + i + p * 8), kept);
            if (parts == 4)
                for (int64_t j = 0; j < piece; j++) {
                    const __m256 weight = _mm256_broadcast_ss(scores + j);
                    for (int p = 0; p < 4; p++)
                        sums[p] = _mm256_fmadd_ps(weight, _mm256_loadu_ps(value + j * size + i + p * 8), sums[p]);
                }
            else
                for (int64_t j = 0; j < piece; j++)
                    for (int64_t p = 0; p < parts; p++)
                        sums[p] = _mm256_fmadd_ps(_mm256_broadcast_ss(scores + j),
                                                  _mm256_loadu_ps(value + j * size + i + p * 8), sums[p]);
            for (int64_t p = 0; p < parts; p++) _mm256_storeu_ps(output + i + p * 8, sums[p]);
        }
    }
    for (int64_t i = 0; i < size; i++) output[i] /= total;
}

AVX2 void attend(int64_t size, int count, const float *queries, const float *keys, const float *values,
                 const int64_t *visible, float *const *outputs) {
    if (count == 1) return attend_alone(size, queries, keys, values, visible[0], outputs[0]);
    float sums[FEW * LARGEST_HEAD], scores[PIECE * FEW];
    int64_t most_visible = 0;
    for (int r = 0; r < count; r++) most_visible = visible[r] > most_visible ? visible[r] : most_visible;
    memset(sums, 0, sizeof(float) * (size_t)(FEW * size));
    __m128 largest = _mm_set1_ps(HIDDEN), total = _mm_setzero_ps();
    for (int64_t start = 0; start < most_visible; start += PIECE) {
        const int64_t piece = most_visible - start < PIECE ? most_visible - start : PIECE;
        score(size, piece, queries, keys + start * size, scores);
        for (int r = 0; r < count; r++)
            for (int64_t j = visible[r] > start ? visible[r] - start : 0; j < piece; j++) scores[j * FEW + r] = HIDDEN;
        if (piece % 2) /* the other half of the last register */
            for (int r = 0; r < FEW; r++) scores[piece * FEW + r] = HIDDEN;
        __m256 most = twice(largest);
        for (int64_t j = 0; j < piece; j += 2) most = _mm256_max_ps(most, _mm256_loadu_ps(scores + j * FEW));
        const __m128 before = largest;
        largest = halves_max(most);
        __m256 added = _mm256_setzero_ps();
        for (int64_t j = 0; j < piece; j += 2) {
            const __m256 weight = exponential(_mm256_sub_ps(_mm256_loadu_ps(scores + j * FEW), twice(largest)));
            _mm256_storeu_ps(scores + j * FEW, weight);
            added = _mm256_add_ps(added, weight);
        }
        float kept[FEW];
        const __m128 factor = _mm256_castps256_ps128(exponential(twice(_mm_sub_ps(before, largest))));
        _mm_storeu_ps(kept, factor);
        total = _mm_fmadd_ps(total, factor, _mm_add_ps(_mm256_castps256_ps128(added), _mm256_extractf128_ps(added, 1)));
        weigh(size, piece, scores, values + start * size, kept, sums);
    }
    float totals[FEW];
    _mm_storeu_ps(totals, total);
    for (int r = 0; r < count; r++)
        for (int64_t i = 0; i < size; i++) outputs[r][i] = sums[r * size + i] / totals[r];
}

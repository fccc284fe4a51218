/* Attention of many queries for x86 with AVX2: what takes the time is arithmetic.
 *
 * The keys are taken in pieces that fit the cache, as by Dao et al. 2022 (arXiv 2205.14135). A piece is turned, so that
 * the lanes of a register are keys and nothing is summed across them, and four queries at a time have their sums, two
 * registers each, in registers over the whole of a head. The same for the values, whose lanes are columns as they lie.
 */
#include <string.h>

#include "attention.h"
#include "avx2.h"

enum { PIECE = 64, TILE = 4 }; /* keys, and queries, at a time */

/* `count` (at most PIECE) keys, a row each, turned so that a column of all of them lies together, to (size, PIECE);
 * behind them zeros, up to a multiple of 16. */
AVX2 static inline void turn(int64_t size, int64_t count, const float *const *keys, float *to) {
    for (int64_t j = 0; j < (count + 15) / 16 * 16; j += 8)
        for (int64_t i = 0; i < size; i += 8) {
            __m256 in[8], pairs[8], fours[8];
            for (int r = 0; r < 8; r++)
                in[r] = j + r < count ? _mm256_loadu_ps(keys[j + r] + i) : _mm256_setzero_ps();
            for (int r = 0; r < 8; r += 2) {
                pairs[r] = _mm256_unpacklo_ps(in[r], in[r + 1]);
                pairs[r + 1] = _mm256_unpackhi_ps(in[r], in[r + 1]);
            }
            for (int r = 0; r < 8; r += 4) {
                fours[r] = _mm256_shuffle_ps(pairs[r], pairs[r + 2], 0x44);
                fours[r + 1] = _mm256_shuffle_ps(pairs[r], pairs[r + 2], 0xee);
                fours[r + 2] = _mm256_shuffle_ps(pairs[r + 1], pairs[r + 3], 0x44);
                fours[r + 3] = _mm256_shuffle_ps(pairs[r + 1], pairs[r + 3], 0xee);
            }
            for (int r = 0; r < 4; r++) {
                _mm256_storeu_ps(to + (i + r) * PIECE + j, _mm256_permute2f128_ps(fours[r], fours[r + 4], 0x20));
                _mm256_storeu_ps(to + (i + r + 4) * PIECE + j, _mm256_permute2f128_ps(fours[r], fours[r + 4], 0x31));
            }
        }
}

/* Scores of TILE queries for the first `width` turned keys, a multiple of 16, to (TILE, PIECE). */
AVX2 static inline void score(int64_t size, int64_t width, const float *queries, const float *turned, float *scores) {
    for (int64_t j = 0; j < width; j += 16) {
        __m256 sums[TILE][2];
        for (int r = 0; r < TILE; r++) sums[r][0] = sums[r][1] = _mm256_setzero_ps();
        for (int64_t i = 0; i < size; i++) {
            const __m256 first = _mm256_loadu_ps(turned + i * PIECE + j);
            const __m256 second = _mm256_loadu_ps(turned + i * PIECE + j + 8);
            for (int r = 0; r < TILE; r++) {
                const __m256 query = _mm256_broadcast_ss(queries + r * size + i);
                sums[r][0] = _mm256_fmadd_ps(query, first, sums[r][0]);
                sums[r][1] = _mm256_fmadd_ps(query, second, sums[r][1]);
            }
        }
        for (int r = 0; r < TILE; r++) {
            _mm256_storeu_ps(scores + r * PIECE + j, sums[r][0]);
            _mm256_storeu_ps(scores + r * PIECE + j + 8, sums[r][1]);
        }
    }
}

/* How far a query's online softmax has come. */
typedef struct {
    float largest, total; /* score, and sum of weights relative to it */
} Softmax;

/* Scores of one query, a multiple of 8 of them, to weights; returns what earlier sums are multiplied by. */
AVX2 static inline float weights(Softmax *state, int64_t width, float *scores) {
    __m256 most = _mm256_set1_ps(state->largest), added = _mm256_setzero_ps();
    for (int64_t j = 0; j < width; j += 8) most = _mm256_max_ps(most, _mm256_loadu_ps(scores + j));
    const float top = largest(most);
    const float kept = _mm256_cvtss_f32(exponential(_mm256_set1_ps(state->largest - top)));
    for (int64_t j = 0; j < width; j += 8) {
        const __m256 weight = exponential(_mm256_sub_ps(_mm256_loadu_ps(scores + j), _mm256_set1_ps(top)));
        _mm256_storeu_ps(scores + j, weight);
        added = _mm256_add_ps(added, weight);
    }
    *state = (Softmax){top, state->total * kept + sum(added)};
    return kept;
}

/* Adds `count` values, weighted, to 8 * `registers` (1 or 2) columns, from `at` on, of the sums of TILE queries, of which
 * `kept` stays. */
AVX2 __attribute__((always_inline)) static inline void weigh(int64_t count, int64_t at, int registers,
                                                             const float *weights, const float *const *values,
                                                             const float *kept, float *const *sums) {
    __m256 sum[TILE][2];
    for (int r = 0; r < TILE; r++)
        for (int h = 0; h < registers; h++)
            sum[r][h] = _mm256_mul_ps(_mm256_loadu_ps(sums[r] + at + h * 8), _mm256_set1_ps(kept[r]));
    for (int64_t j = 0; j < count; j++) {
        const float *value = values[j] + at;
        for (int r = 0; r < TILE; r++) {
            const __m256 weight = _mm256_broadcast_ss(weights + r * PIECE + j);
            for (int h = 0; h < registers; h++)
                sum[r][h] = _mm256_fmadd_ps(weight, _mm256_loadu_ps(value + h * 8), sum[r][h]);
        }
    }
    for (int r = 0; r < TILE; r++)
        for (int h = 0; h < registers; h++) _mm256_storeu_ps(sums[r] + at + h * 8, sum[r][h]);
}

/* TILE queries on `piece` turned keys and as many values, which are those behind the first `start`. */
AVX2 static void tile(int64_t size, int64_t start, int64_t piece, const float *queries, const float *turned,
                      const float *const *values, const int64_t *visible, Softmax *states, float *const *outputs) {
    float scores[TILE * PIECE], kept[TILE];
    int64_t own[TILE], seen = 0; /* keys that a query sees, and that any of them does */
    for (int r = 0; r < TILE; r++) {
        own[r] = visible[r] - start < piece ? visible[r] - start : piece;
        own[r] = own[r] < 0 ? 0 : own[r];
        seen = own[r] > seen ? own[r] : seen;
    }
    if (!seen) return;
    const int64_t width = (seen + 15) / 16 * 16;
    score(size, width, queries, turned, scores);
    for (int r = 0; r < TILE; r++) {
        for (int64_t j = own[r]; j < width; j++) scores[r * PIECE + j] = HIDDEN;
        kept[r] = weights(&states[r], width, scores + r * PIECE);
    }
    int64_t i = 0;
    for (; i + 16 <= size; i += 16) weigh(seen, i, 2, scores, values, kept, outputs);
    if (i < size) weigh(seen, i, 1, scores, values, kept, outputs);
}

AVX2 void attend_many(int64_t size, int count, const float *queries, const Memory *memory, const int64_t *visible,
                      float *const *outputs) {
    float turned[LARGEST_HEAD * PIECE];
    const float *keys[PIECE], *values[PIECE];
    Softmax states[MANY];
    int64_t most_visible = 0;
    for (int r = 0; r < MANY; r++) {
        states[r] = (Softmax){HIDDEN, 0};
        most_visible = visible[r] > most_visible ? visible[r] : most_visible;
        memset(outputs[r], 0, sizeof(float) * (size_t)size);
    }
    for (int64_t start = 0; start < most_visible; start += PIECE) {
        const int64_t piece = most_visible - start < PIECE ? most_visible - start : PIECE;
        for (int64_t j = 0; j < piece; j++) {
            const int64_t row = memory->rows ? memory->rows[start + j] : start + j;
            keys[j] = memory->keys + row * memory->stride;
            values[j] = memory->values + row * memory->stride;
        }
        turn(size, piece, keys, turned);
        for (int r = 0; r < count; r += TILE)
            tile(size, start, piece, queries + r * size, turned, values, visible + r, states + r, outputs + r);
    }
    for (int r = 0; r < count; r++)
        for (int64_t i = 0; i < size; i++) outputs[r][i] /= states[r].total;
}

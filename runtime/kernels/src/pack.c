/* The matrix, interleaved for the instructions that multiply it. */
#include <emmintrin.h>
#include <string.h>

#include "product.h"

static int64_t groups(const Matrix *m) { return (m->n + m->by->lanes - 1) / m->by->lanes; }

size_t packed_size(const Matrix *m) { return (size_t)(groups(m) * m->blocks) * stride(m); }

/* The block's columns of one row, to every lanes-th group of four bytes. */
static void interleave(const Matrix *m, const uint8_t *from, uint8_t *to) {
    const int64_t apart = 4 * m->by->lanes;
    if (m->bits == 8) {
        const uint32_t flip = m->by->is_signed ? 0x80808080u : 0;
        for (int64_t i = 0; i < m->block; i += 4, to += apart) {
            uint32_t columns;
            memcpy(&columns, from + i, 4);
            columns ^= flip;
            memcpy(to, &columns, 4);
        }
        return;
    }
    for (int64_t i = 0; i < m->block; i += 8, to += apart)
        for (int64_t j = 0; j < 4; j++) {
            const uint8_t low = from[(i + j) / 2] >> (j % 2 * 4) & 15;
            const uint8_t high = from[(i + 4 + j) / 2] >> (j % 2 * 4) & 15;
            to[j] = (uint8_t)(low | high << 4);
        }
}

void pack(const Matrix *m, const uint8_t *values, const float *scales, const uint8_t *zeros) {
    const int64_t lanes = m->by->lanes, bytes = m->block * m->bits / 8, zero_bytes = (m->blocks * m->bits + 7) / 8;
    const size_t size = stride(m);
    for (int64_t n = 0; n < groups(m) * lanes; n++)
        for (int64_t b = 0; b < m->blocks; b++) {
            uint8_t *record = m->packed + (size_t)(n / lanes * m->blocks + b) * size;
            float *scale = (float *)(record + values_size(m)) + n % lanes;
            int32_t *zero = (int32_t *)(record + values_size(m)) + lanes + n % lanes;
            uint8_t *lane = record + n % lanes * 4;
            if (n >= m->n) { /* rows that are not there */
                *scale = 0;
                if (m->shifted) *zero = 0;
                for (int64_t i = 0; i < bytes; i += 4) memset(lane + i * lanes, 0, 4);
                continue;
            }
            *scale = scales[n * m->blocks + b];
            if (m->shifted) {
                const uint8_t *row = zeros + n * zero_bytes;
                *zero = m->bits == 4 ? row[b / 2] >> (b % 2 * 4) & 15 : row[b] - (m->by->is_signed ? 128 : 0);
            }
            interleave(m, values + (n * m->blocks + b) * bytes, lane);
        }
}

/* Four neighbouring bytes of each of `lanes` columns, a multiple of 8, from rows that are `apart`. */
static void turn(const int8_t *from, int64_t apart, int64_t lanes, uint8_t flip, uint8_t *to) {
    const __m128i flips = _mm_set1_epi8((char)flip);
    for (int64_t l = 0; l < lanes; l += 8) {
        __m128i rows[4];
        for (int r = 0; r < 4; r++) rows[r] = _mm_loadl_epi64((const __m128i *)(from + r * apart + l));
        const __m128i first = _mm_unpacklo_epi8(rows[0], rows[1]), second = _mm_unpacklo_epi8(rows[2], rows[3]);
        _mm_storeu_si128((__m128i *)(to + l * 4), _mm_xor_si128(_mm_unpacklo_epi16(first, second), flips));
        _mm_storeu_si128((__m128i *)(to + l * 4 + 16), _mm_xor_si128(_mm_unpackhi_epi16(first, second), flips));
    }
}

void pack_columns(const Matrix *m, const int8_t *values, const float *scales) {
    const int64_t lanes = m->by->lanes;
    const uint8_t flip = m->by->is_signed ? 0 : 128;
    uint8_t *record = m->packed;
    for (int64_t n = 0; n < m->n; n += lanes) {
        const int64_t there = m->n - n < lanes ? m->n - n : lanes;
        for (int64_t b = 0; b < m->blocks; b++, record += stride(m)) {
            float *scale = (float *)(record + values_size(m));
            for (int64_t l = 0; l < lanes; l++) scale[l] = l < there ? scales[n + l] : 0;
            for (int64_t i = 0; i < m->block; i += 4) {
                const int64_t k = b * m->block + i;
                uint8_t *to = record + i * lanes;
                if (there == lanes && k + 4 <= m->k) turn(values + k * m->n + n, m->n, lanes, flip, to);
                else
                    for (int64_t l = 0; l < lanes; l++)
                        for (int64_t c = 0; c < 4; c++)
                            to[l * 4 + c] = flip ^ (uint8_t)(l < there && k + c < m->k ? values[(k + c) * m->n + n + l] : 0);
            }
        }
    }
}

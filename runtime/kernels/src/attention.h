/* Softmax attention of queries over one head's cache, in fp32. Knows no ONNX Runtime. */
#pragma once
#include <stdint.h>

enum { FEW = 4, MANY = 32 }; /* queries at a time; MANY of them take another way */
enum { LARGEST_HEAD = 256 }; /* size of a head, a multiple of 8 */

/* The score of a key that is not seen: finite, so that differences are numbers. */
#define HIDDEN -1e30f

typedef struct {
    int64_t heads, kv_heads, size;
    float scale;
    int rotates, interleaved;    /* whether positions are rotated into queries and keys, and which columns are a pair */
    const float *cos, *sin;      /* (positions, pairs) */
    int64_t positions, pairs;
} Heads;

/* One head of `size` values, rotated to its position and multiplied by `factor`. */
void rotate(const Heads *h, const float *from, int64_t position, float factor, float *to);

/* The outputs of `count` (1 to FEW) queries, each of `size` values: the r-th query sees the first visible[r] of the keys.
 * keys and values are (most visible, size); queries are (FEW, size), and are read to the last. Online softmax,
 * Milakov and Gimelshein 2018 (arXiv 1805.02867), over pieces of the cache. */
void attend(int64_t size, int count, const float *queries, const float *keys, const float *values,
            const int64_t *visible, float *const *outputs);

/* Keys and values of one head, wherever its rows stand. */
typedef struct {
    const float *keys, *values;
    int64_t stride;              /* floats from one row to the next */
    const int32_t *rows;         /* those that count, in their order; null for all of them */
} Memory;

/* The same for at most MANY queries, count of them: visible[r] rows of the memory that count. Behind the last query,
 * up to MANY, no row is visible, and outputs are memory to spare. */
void attend_many(int64_t size, int count, const float *queries, const Memory *memory, const int64_t *visible,
                 float *const *outputs);

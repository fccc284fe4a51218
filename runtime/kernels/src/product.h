/* Rows of fp32 times a matrix of 4 or 8 bits with a scale a block: y = f(x) W^T + bias + residual, where f is a prologue.
 * Knows no ONNX Runtime. */
#pragma once
#include <stddef.h>
#include <stdint.h>

#include "prologue.h"

enum { LEAST_BLOCK = 16, LARGEST_BLOCK = 256 };
enum { MOST_LANES = 32 }; /* what a thread's share of a matrix's rows is a multiple of */

typedef struct Matrix Matrix;

typedef struct {
    int8_t *values;    /* (rows, blocks * block), zeros behind column k */
    float *scales;     /* (rows, blocks) */
    int32_t *sums;     /* (rows, blocks), of the values */
} Activations;

/* What a set of instructions multiplies by. */
typedef struct {
    int lanes;         /* rows of the matrix that lie interleaved and are multiplied at a time */
    int is_signed;     /* whether values of 8 bits lie as signed ones; those of 4 bits never do */
    /* Rows first to last (exclusive) of the matrix times all rows of x; y is (rows, n), like the residual, if there is
     * one. `first` is a multiple of the lanes. */
    void (*multiply)(const Matrix *m, const Activations *x, int64_t rows, int64_t first, int64_t last,
                     const float *residual, float *y);
} Multiplier;

extern const Multiplier avx2_multiplier, vnni_multiplier;

/* In memory: blocks of `lanes` rows, of one block of columns after the other. Each has the values, four columns of every
 * row in turn (8 bits), or four in the low and the next four in the high halves of the bytes (4 bits); then a scale a
 * row; then, if it is shifted, a zero point a row, in 32 bits. One column group of x is then the same four bytes for all
 * lanes, each lane adds up one row, nothing is summed across lanes, and the matrix is one stream of memory. */
struct Matrix {
    const Multiplier *by;
    int64_t n, k;      /* rows and columns of the matrix */
    int64_t block;     /* columns that share a scale: a multiple of LEAST_BLOCK */
    int64_t blocks;    /* in a row */
    int bits;          /* 4 or 8 */
    int shifted;       /* whether blocks have zero points of their own */
    uint8_t *packed;
    float *bias;       /* n of them, or none */
};

/* Bytes of the values of one block of all lanes, and of those with scales and zero points. */
static inline size_t values_size(const Matrix *m) { return (size_t)(m->by->lanes * m->block * m->bits / 8); }
static inline size_t stride(const Matrix *m) {
    return values_size(m) + (size_t)m->by->lanes * (sizeof(float) + (m->shifted ? sizeof(int32_t) : 0));
}

size_t packed_size(const Matrix *m);

/* Interleave the matrix as MatMulNBits stores it: values (n, blocks, block * bits / 8), scales (n, blocks), zero points
 * (n, bytes of a row) or none, all of them unsigned and counted from the middle. */
void pack(const Matrix *m, const uint8_t *values, const float *scales, const uint8_t *zeros);

/* The same for values (k, n), signed, of 8 bits without zero points, and scales (n): one for all blocks of a row. */
void pack_columns(const Matrix *m, const int8_t *values, const float *scales);

/* One row of x, k values once the prologue is done with it, to 8 bits with a scale a block. */
void quantize_row(const Matrix *m, const Prologue *p, const float *x, const Activations *to, int64_t row);

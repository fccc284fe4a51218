/* Rows of fp32 times a matrix of 4 or 8 bits with a scale a block: y = f(x) W^T + bias + residual, where f is a prologue.
 * Knows no ONNX Runtime. */
#pragma once
#include <stddef.h>
#include <stdint.h>

#include "prologue.h"

enum { ROWS = 8 }; /* of the matrix, that lie interleaved and are multiplied at a time */
enum { LEAST_BLOCK = 16, LARGEST_BLOCK = 256 };

typedef struct {
    int64_t n, k;      /* rows and columns of the matrix */
    int64_t block;     /* columns that share a scale: a multiple of LEAST_BLOCK */
    int64_t blocks;    /* in a row */
    int bits;          /* 4 or 8 */
    int shifted;       /* whether blocks have zero points of their own */
    size_t stride;     /* bytes of one block of ROWS rows, scales included */
    uint8_t *packed;
    float *bias;       /* n of them, or none */
} Matrix;

typedef struct {
    int8_t *values;    /* (rows, blocks * block), zeros behind column k */
    float *scales;     /* (rows, blocks) */
    int32_t *sums;     /* (rows, blocks), of the values */
} Activations;

size_t packed_size(const Matrix *m);

/* Interleave the matrix as MatMulNBits stores it: values (n, blocks, block * bits / 8), scales (n, blocks), zero points
 * (n, bytes of a row) or none, all of them unsigned and counted from the middle. */
void pack(const Matrix *m, const uint8_t *values, const float *scales, const uint8_t *zeros);

/* One row of x, k values once the prologue is done with it, to 8 bits with a scale a block. */
void quantize_row(const Matrix *m, const Prologue *p, const float *x, const Activations *to, int64_t row);

/* Rows first to last (exclusive) of the matrix times all rows of x; y is (rows, n), like the residual, if there is one. */
void multiply(const Matrix *m, const Activations *x, int64_t rows, int64_t first, int64_t last, const float *residual,
              float *y);

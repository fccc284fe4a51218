/* What the operators that multiply share: everything but how the matrix is stored. What stands around a product may be
 * part of it: a prologue of its activations, and a residual that is added to its result (attributes prologue, gated and
 * epsilon, the last three inputs). */
#pragma once
#include "operators.h"
#include "product.h"

enum { X, VALUES, SCALES, ZEROS, ORDER, BIAS, NORM_SCALE, NORM_BIAS, RESIDUAL, INPUTS };

typedef struct {
    const OrtApi *api;
    Matrix matrix;
    Prologue prologue;
} ProductKernel;

/* A constant input's memory, null where it is absent; refused if it has another type or number of elements. */
OrtStatus *constant(const OrtApi *api, const OrtKernelInfo *info, size_t index, int type, int64_t count,
                    const void **out);

/* A kernel, whose matrix has its rows and columns (attributes N and K) and is to be filled. */
OrtStatus *create_product(const OrtApi *api, const OrtKernelInfo *info,
                          OrtStatus *(*fill)(ProductKernel *kernel, const OrtKernelInfo *info), void **out);

/* Room for the matrix, which has said its bits and blocks, to be packed into; and its bias, n values or null. */
OrtStatus *make_room(ProductKernel *kernel, const float *bias);

void destroy_product(void *kernel);
OrtStatus *compute_product(void *kernel, OrtKernelContext *context);
size_t product_inputs(const OrtCustomOp *op);
size_t product_outputs(const OrtCustomOp *op);
int product_input_kind(const OrtCustomOp *op, size_t i);

#define PRODUCT                                                                            \
    ON_CPU, .input_count = product_inputs, .output_count = product_outputs,                \
    .destroy = destroy_product, .input_kind = product_input_kind, .compute = compute_product

/* The operator edgeport.simd::DynamicQuantizeMatMul: com.microsoft::DynamicQuantizeMatMul with a constant matrix (K, N) of
 * signed 8 bits without a zero point, with the inputs of MatMulNBits and what product_operator.h adds.
 *
 * The definition gives all activations one range. Here at most 256 columns of a row have one of their own, as in
 * MatMulNBits: the result is closer to the product in floats, and a row's does not depend on its neighbours. */
#include "memory.h"
#include "product_operator.h"

static OrtStatus *fill(ProductKernel *kernel, const OrtKernelInfo *info) {
    const OrtApi *api = kernel->api;
    Matrix *m = &kernel->matrix;
    m->bits = 8;
    m->blocks = (m->k + LARGEST_BLOCK - 1) / LARGEST_BLOCK;
    m->block = ((m->k + m->blocks - 1) / m->blocks + LEAST_BLOCK - 1) / LEAST_BLOCK * LEAST_BLOCK; /* of about a size */
    m->blocks = (m->k + m->block - 1) / m->block;
    const void *values, *scales, *bias;
    TRY(constant(api, info, VALUES, ORT_INT8, m->k * m->n, &values));
    TRY(constant(api, info, SCALES, ORT_FLOAT, m->n, &scales));
    TRY(constant(api, info, BIAS, ORT_FLOAT, m->n, &bias));
    if (!values || !scales) return wrong(api, "the weights are no constants");
    TRY(make_room(kernel, bias));
    pack_columns(m, values, scales);
    weights_forget(values, (size_t)(m->k * m->n));
    return NULL;
}

static OrtStatus *create(const OrtCustomOp *op, const OrtApi *api, const OrtKernelInfo *info, void **out) {
    return (void)op, create_product(api, info, fill, out);
}

static const char *name(const OrtCustomOp *op) { return (void)op, "DynamicQuantizeMatMul"; }
static int input_type(const OrtCustomOp *op, size_t i) {
    return (void)op, i == VALUES || i == ZEROS ? ORT_INT8 : i == ORDER ? ORT_INT32 : ORT_FLOAT;
}

const OrtCustomOp dynamic_quantize_matmul = {PRODUCT, .name = name, .input_type = input_type, .create_kernel = create};

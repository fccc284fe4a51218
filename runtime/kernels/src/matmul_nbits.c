/* The operator edgeport.simd::MatMulNBits: inputs, attributes and meaning of com.microsoft::MatMulNBits with
 * accuracy_level 4 (activations in 8 bits), without g_idx, and with what product_operator.h adds. */
#include "memory.h"
#include "product_operator.h"

static OrtStatus *fill(ProductKernel *kernel, const OrtKernelInfo *info) {
    const OrtApi *api = kernel->api;
    Matrix *m = &kernel->matrix;
    int64_t bits = 0;
    TRY(api->attribute_int(info, "bits", &bits));
    TRY(api->attribute_int(info, "block_size", &m->block));
    if ((bits != 4 && bits != 8) || m->block < LEAST_BLOCK || m->block > LARGEST_BLOCK || m->block % LEAST_BLOCK)
        return wrong(api, "bits or block_size is out of range");
    m->bits = (int)bits;
    m->blocks = (m->k + m->block - 1) / m->block;
    const void *values, *scales, *zeros, *bias;
    const int64_t bytes = m->n * m->blocks * (m->block * bits / 8);
    TRY(constant(api, info, VALUES, ORT_UINT8, bytes, &values));
    TRY(constant(api, info, SCALES, ORT_FLOAT, m->n * m->blocks, &scales));
    TRY(constant(api, info, ZEROS, ORT_UINT8, m->n * ((m->blocks * bits + 7) / 8), &zeros));
    TRY(constant(api, info, BIAS, ORT_FLOAT, m->n, &bias));
    if (!values || !scales) return wrong(api, "the weights are no constants");
    m->shifted = zeros != NULL;
    TRY(make_room(kernel, bias));
    pack(m, values, scales, zeros);
    weights_forget(values, (size_t)bytes);
    return NULL;
}

static OrtStatus *create(const OrtCustomOp *op, const OrtApi *api, const OrtKernelInfo *info, void **out) {
    return (void)op, create_product(api, info, fill, out);
}

static const char *name(const OrtCustomOp *op) { return (void)op, "MatMulNBits"; }
static int input_type(const OrtCustomOp *op, size_t i) {
    return (void)op, i == VALUES || i == ZEROS ? ORT_UINT8 : i == ORDER ? ORT_INT32 : ORT_FLOAT;
}

const OrtCustomOp matmul_nbits = {PRODUCT, .name = name, .input_type = input_type, .create_kernel = create};

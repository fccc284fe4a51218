/* The operator edgeport.simd::MatMulNBits: inputs, attributes and meaning of com.microsoft::MatMulNBits with
 * accuracy_level 4 (activations in 8 bits), without g_idx. What stands around a product may be part of it: a prologue of
 * its activations, and a residual that is added to its result (attributes prologue, gated and epsilon, inputs 6 to 8). */
#include <stdlib.h>
#include <string.h>

#include "memory.h"
#include "operators.h"
#include "processor.h"
#include "product.h"

enum { X, VALUES, SCALES, ZEROS, ORDER, BIAS, NORM_SCALE, NORM_BIAS, RESIDUAL, INPUTS };
enum { TASK = 64, SMALL_TASK = MOST_LANES, FEW = 512 }; /* rows of the matrix in a thread's task, the smaller where it has few */

typedef struct {
    const OrtApi *api;
    Matrix matrix;
    Prologue prologue;
} Kernel;

/* A constant input's memory, null where it is absent; refused if it has another type or number of elements. */
static OrtStatus *constant(const OrtApi *api, const OrtKernelInfo *info, size_t index, int type, int64_t count,
                           const void **out) {
    const OrtValue *value = NULL;
    OrtShape *shape = NULL;
    int is_constant = 0, actual = 0;
    size_t elements = 0;
    *out = NULL;
    TRY(api->constant_input(info, index, &is_constant, &value));
    if (!value) return NULL;
    TRY(api->type_and_shape(value, &shape));
    OrtStatus *status = api->element_type(shape, &actual);
    if (!status) status = api->element_count(shape, &elements);
    api->release_shape(shape);
    if (status) return status;
    if (actual != type || elements != (size_t)count) return wrong(api, "an input has another type or size than it says");
    return api->tensor_data((OrtValue *)value, (void **)out);
}

static void destroy(void *kernel) {
    Kernel *k = kernel;
    if (!k) return;
    weights_free(k->matrix.packed);
    free(k->matrix.bias);
    free(k);
}

static OrtStatus *fill(Kernel *kernel, const OrtKernelInfo *info) {
    const OrtApi *api = kernel->api;
    Matrix *m = &kernel->matrix;
    int64_t bits = 0;
    TRY(api->attribute_int(info, "N", &m->n));
    TRY(api->attribute_int(info, "K", &m->k));
    TRY(api->attribute_int(info, "bits", &bits));
    TRY(api->attribute_int(info, "block_size", &m->block));
    if (!processor_has(AVX2_FMA)) return api->create_status(ORT_FAIL, "this processor has no AVX2");
    if (m->n < 1 || m->k < 1 || m->n > INT32_MAX || m->k > INT32_MAX || (bits != 4 && bits != 8) ||
        m->block < LEAST_BLOCK || m->block > LARGEST_BLOCK || m->block % LEAST_BLOCK)
        return wrong(api, "N, K, bits or block_size is out of range");
    m->by = processor_has(AVX512_VNNI) ? &vnni_multiplier : &avx2_multiplier;
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
    m->packed = weights_alloc(packed_size(m));
    if (bias) m->bias = malloc((size_t)m->n * sizeof(float));
    if (!m->packed || (bias && !m->bias)) return api->create_status(ORT_FAIL, "out of memory");
    if (bias) memcpy(m->bias, bias, (size_t)m->n * sizeof(float));
    pack(m, values, scales, zeros);
    weights_forget(values, (size_t)bytes);
    return NULL;
}

static OrtStatus *read_prologue(const OrtApi *api, const OrtKernelInfo *info, Prologue *p) {
    p->epsilon = 1e-5f; /* ONNX's default */
    OrtStatus *absent[] = {api->attribute_int(info, "prologue", &p->kind), api->attribute_int(info, "gated", &p->gated),
                           api->attribute_float(info, "epsilon", &p->epsilon)};
    for (int i = 0; i < 3; i++)
        if (absent[i]) api->release_status(absent[i]);
    if (p->kind < AS_IS || p->kind >= PROLOGUES || (p->gated && (p->kind == AS_IS || is_norm(p))))
        return wrong(api, "the product has no such prologue");
    return NULL;
}

static OrtStatus *create(const OrtCustomOp *op, const OrtApi *api, const OrtKernelInfo *info, void **out) {
    (void)op;
    Kernel *kernel = calloc(1, sizeof *kernel);
    if (!kernel) return api->create_status(ORT_FAIL, "out of memory");
    kernel->api = api;
    OrtStatus *status = fill(kernel, info);
    if (!status) status = read_prologue(api, info, &kernel->prologue);
    if (status) {
        destroy(kernel);
        kernel = NULL;
    }
    *out = kernel;
    return status;
}

typedef struct {
    const Matrix *matrix;
    Prologue prologue;
    Activations activations;
    const float *x, *residual;
    float *y;
    int64_t rows, task;
} Call;

static void quantize_task(void *data, size_t index) {
    const Call *call = data;
    const float *x = call->x + (int64_t)index * call->matrix->k * (call->prologue.gated ? 2 : 1);
    quantize_row(call->matrix, &call->prologue, x, &call->activations, (int64_t)index);
}

static void multiply_task(void *data, size_t index) {
    const Call *call = data;
    const int64_t first = (int64_t)index * call->task, end = first + call->task, n = call->matrix->n;
    call->matrix->by->multiply(call->matrix, &call->activations, call->rows, first, end < n ? end : n, call->residual, call->y);
}

/* An input's memory, null where it is absent; refused if it has another number of elements. */
static OrtStatus *operand(const OrtApi *api, OrtKernelContext *context, size_t index, int64_t count, const float **out) {
    const OrtValue *value = NULL;
    OrtShape *shape = NULL;
    size_t elements = 0;
    *out = NULL;
    TRY(api->input(context, index, &value));
    if (!value) return NULL;
    TRY(api->type_and_shape(value, &shape));
    OrtStatus *status = api->element_count(shape, &elements);
    api->release_shape(shape);
    if (!status && elements != (size_t)count) status = wrong(api, "an input of a prologue or the residual has another size");
    return status ? status : api->tensor_data((OrtValue *)value, (void **)out);
}

static OrtStatus *read_operands(const OrtApi *api, OrtKernelContext *context, Call *call) {
    const Matrix *m = call->matrix;
    Prologue *p = &call->prologue;
    TRY(operand(api, context, RESIDUAL, call->rows * m->n, &call->residual));
    if (!is_norm(p)) return NULL;
    TRY(operand(api, context, NORM_BIAS, m->k, &p->bias));
    TRY(operand(api, context, NORM_SCALE, m->k, &p->scale));
    return p->scale ? NULL : wrong(api, "the normalization has no scale");
}

static OrtStatus *run(const OrtApi *api, OrtKernelContext *context, Call *call) {
    const Matrix *m = call->matrix;
    if (call->rows == 1)
        quantize_task(call, 0);
    else
        TRY(api->parallel_for(context, quantize_task, (size_t)call->rows, 0, call));
    const size_t tasks = (size_t)((m->n + call->task - 1) / call->task);
    return api->parallel_for(context, multiply_task, tasks, tasks, call);
}

static OrtStatus *compute(void *kernel, OrtKernelContext *context) {
    const OrtApi *api = ((Kernel *)kernel)->api;
    const Matrix *m = &((Kernel *)kernel)->matrix;
    const Prologue *prologue = &((Kernel *)kernel)->prologue;
    const OrtValue *x = NULL;
    OrtValue *y = NULL;
    OrtShape *shape = NULL;
    int64_t sizes[8] = {0};
    size_t rank = 0;
    TRY(api->input(context, X, &x));
    TRY(api->type_and_shape(x, &shape));
    OrtStatus *status = api->dimension_count(shape, &rank);
    if (!status && (rank < 1 || rank > 8)) status = wrong(api, "the activations have no axis, or more than 8");
    if (!status) status = api->dimensions(shape, sizes, rank);
    api->release_shape(shape);
    if (status) return status;
    if (sizes[rank - 1] != m->k * (prologue->gated ? 2 : 1)) return wrong(api, "the activations' last axis is not K");
    Call call = {.matrix = m, .prologue = *prologue, .rows = 1, .task = m->n < FEW ? SMALL_TASK : TASK};
    for (size_t i = 0; i + 1 < rank; i++) call.rows *= sizes[i];
    sizes[rank - 1] = m->n;
    TRY(api->output(context, 0, sizes, rank, &y));
    if (call.rows == 0) return NULL;
    TRY(api->tensor_data((OrtValue *)x, (void **)&call.x));
    TRY(api->tensor_data(y, (void **)&call.y));
    TRY(read_operands(api, context, &call));
    const size_t blocks = (size_t)(call.rows * m->blocks);
    char *scratch = malloc(blocks * (sizeof(float) + sizeof(int32_t) + (size_t)m->block));
    if (!scratch) return api->create_status(ORT_FAIL, "out of memory");
    call.activations.scales = (float *)scratch;
    call.activations.sums = (int32_t *)(scratch + blocks * sizeof(float));
    call.activations.values = (int8_t *)(scratch + blocks * (sizeof(float) + sizeof(int32_t)));
    status = run(api, context, &call);
    free(scratch);
    return status;
}

static const char *name(const OrtCustomOp *op) { return (void)op, "MatMulNBits"; }
static size_t input_count(const OrtCustomOp *op) { return (void)op, INPUTS; }
static size_t output_count(const OrtCustomOp *op) { return (void)op, 1; }
static int input_type(const OrtCustomOp *op, size_t i) {
    return (void)op, i == VALUES || i == ZEROS ? ORT_UINT8 : i == ORDER ? ORT_INT32 : ORT_FLOAT;
}
static int input_kind(const OrtCustomOp *op, size_t i) { return (void)op, i > SCALES ? ORT_OPTIONAL : ORT_REQUIRED; }

const OrtCustomOp matmul_nbits = {
    ON_CPU,
    .name = name,
    .input_type = input_type,
    .input_count = input_count,
    .output_count = output_count,
    .destroy = destroy,
    .input_kind = input_kind,
    .create_kernel = create,
    .compute = compute,
};

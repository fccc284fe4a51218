/* What the operators that multiply share: everything but how the matrix is stored. */
#include "product_operator.h"

#include <stdlib.h>
#include <string.h>

#include "memory.h"
#include "processor.h"

enum { TASK = 2 * MOST_LANES, SMALL_TASK = MOST_LANES, FEW = 512 }; /* rows in a thread's task, the smaller of few rows */

OrtStatus *constant(const OrtApi *api, const OrtKernelInfo *info, size_t index, int type, int64_t count,
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

OrtStatus *make_room(ProductKernel *kernel, const float *bias) {
    Matrix *m = &kernel->matrix;
    m->packed = weights_alloc(packed_size(m));
    if (bias) m->bias = malloc((size_t)m->n * sizeof(float));
    if (!m->packed || (bias && !m->bias)) return kernel->api->create_status(ORT_FAIL, "out of memory");
    if (bias) memcpy(m->bias, bias, (size_t)m->n * sizeof(float));
    return NULL;
}

void destroy_product(void *kernel) {
    ProductKernel *k = kernel;
    if (!k) return;
    weights_free(k->matrix.packed);
    free(k->matrix.bias);
    free(k);
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

OrtStatus *create_product(const OrtApi *api, const OrtKernelInfo *info,
                          OrtStatus *(*fill)(ProductKernel *kernel, const OrtKernelInfo *info), void **out) {
    *out = NULL;
    if (!processor_has(AVX2_FMA)) return api->create_status(ORT_FAIL, "this processor has no AVX2");
    ProductKernel *kernel = calloc(1, sizeof *kernel);
    if (!kernel) return api->create_status(ORT_FAIL, "out of memory");
    kernel->api = api;
    kernel->matrix.by = processor_has(AVX512_VNNI) ? &vnni_multiplier : &avx2_multiplier;
    OrtStatus *status = api->attribute_int(info, "N", &kernel->matrix.n);
    if (!status) status = api->attribute_int(info, "K", &kernel->matrix.k);
    const Matrix *m = &kernel->matrix;
    if (!status && (m->n < 1 || m->k < 1 || m->n > INT32_MAX || m->k > INT32_MAX)) status = wrong(api, "N or K is out of range");
    if (!status) status = fill(kernel, info);
    if (!status) status = read_prologue(api, info, &kernel->prologue);
    if (status) destroy_product(kernel);
    else *out = kernel;
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

OrtStatus *compute_product(void *kernel, OrtKernelContext *context) {
    const OrtApi *api = ((ProductKernel *)kernel)->api;
    const Matrix *m = &((ProductKernel *)kernel)->matrix;
    const Prologue *prologue = &((ProductKernel *)kernel)->prologue;
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

size_t product_inputs(const OrtCustomOp *op) { return (void)op, INPUTS; }
size_t product_outputs(const OrtCustomOp *op) { return (void)op, 1; }
int product_input_kind(const OrtCustomOp *op, size_t i) { return (void)op, i > SCALES ? ORT_OPTIONAL : ORT_REQUIRED; }

/* What the operators of this library share. */
#pragma once
#include "onnxruntime_abi.h"

extern const OrtCustomOp matmul_nbits, dynamic_quantize_matmul, group_query_attention, multi_head_attention;

#define TRY(call)                       \
    do {                                \
        OrtStatus *status_ = (call);    \
        if (status_) return status_;    \
    } while (0)

static inline OrtStatus *wrong(const OrtApi *api, const char *message) {
    return api->create_status(ORT_INVALID_ARGUMENT, message);
}

/* An input's memory and sizes, null where it is absent; refused if it has another number of axes. */
static inline OrtStatus *tensor(const OrtApi *api, OrtKernelContext *context, size_t index, size_t rank, int64_t *sizes,
                                const void **out) {
    const OrtValue *value = NULL;
    OrtShape *shape = NULL;
    size_t actual = 0;
    *out = NULL;
    TRY(api->input(context, index, &value));
    if (!value) return NULL;
    TRY(api->type_and_shape(value, &shape));
    OrtStatus *status = api->dimension_count(shape, &actual);
    if (!status && actual != rank) status = wrong(api, "an input has another number of axes than it should");
    if (!status) status = api->dimensions(shape, sizes, rank);
    api->release_shape(shape);
    return status ? status : api->tensor_data((OrtValue *)value, (void **)out);
}

/* What onnxruntime asks every operator, whatever it computes: here all outputs are in fp32. */
static inline const char *the_cpu(const OrtCustomOp *op) { return (void)op, (const char *)NULL; }
static inline int memory_of_the_cpu(const OrtCustomOp *op, size_t i) { return (void)op, (void)i, 0; }
static inline int fp32_output(const OrtCustomOp *op, size_t i) { return (void)op, (void)i, ORT_FLOAT; }
static inline int required_output(const OrtCustomOp *op, size_t i) { return (void)op, (void)i, ORT_REQUIRED; }
static inline int version_one(const OrtCustomOp *op) { return (void)op, 1; }
static inline int any_later_version(const OrtCustomOp *op) { return (void)op, INT32_MAX; }

#define ON_CPU                                                                                     \
    .version = ORT_VERSION, .provider = the_cpu, .input_memory = memory_of_the_cpu,                \
    .variadic_input_least = version_one, .variadic_input_alike = version_one,                      \
    .variadic_output_least = version_one, .variadic_output_alike = version_one,                    \
    .output_type = fp32_output, .output_kind = required_output,                                    \
    .first_version = version_one, .last_version = any_later_version

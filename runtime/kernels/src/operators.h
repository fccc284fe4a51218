/* What the operators of this library share. */
#pragma once
#include "onnxruntime_abi.h"

extern const OrtCustomOp matmul_nbits, dynamic_quantize_matmul, group_query_attention;

#define TRY(call)                       \
    do {                                \
        OrtStatus *status_ = (call);    \
        if (status_) return status_;    \
    } while (0)

static inline OrtStatus *wrong(const OrtApi *api, const char *message) {
    return api->create_status(ORT_INVALID_ARGUMENT, message);
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

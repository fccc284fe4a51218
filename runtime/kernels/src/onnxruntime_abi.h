/* The part of ONNX Runtime's C interface that an operator of its own needs, by position.
 *
 * The tables are append-only: no version moves an entry of an earlier one. Entries that are not called here are
 * counted and not named. Version 17 (onnxruntime 1.17) has all of them. Reference: onnxruntime_c_api.h of onnxruntime.
 */
#pragma once
#include <stddef.h>
#include <stdint.h>

#define ORT_VERSION 17

typedef struct OrtStatus OrtStatus;
typedef struct OrtValue OrtValue;
typedef struct OrtShape OrtShape; /* OrtTensorTypeAndShapeInfo */
typedef struct OrtKernelInfo OrtKernelInfo;
typedef struct OrtKernelContext OrtKernelContext;
typedef struct OrtDomain OrtDomain; /* OrtCustomOpDomain */
typedef struct OrtSessionOptions OrtSessionOptions;
typedef struct OrtCustomOp OrtCustomOp;

enum { ORT_FAIL = 1, ORT_INVALID_ARGUMENT = 2 };
enum { ORT_FLOAT = 1, ORT_UINT8 = 2, ORT_INT8 = 3, ORT_INT32 = 6 };
enum { ORT_REQUIRED = 0, ORT_OPTIONAL = 1 };

typedef void (*OrtEntry)(void);

typedef struct OrtApi {
    OrtStatus *(*create_status)(int code, const char *message);                                        /* 0 */
    OrtEntry skipped_1[25];
    OrtStatus *(*create_domain)(const char *name, OrtDomain **out);                                    /* 26 */
    OrtStatus *(*domain_add)(OrtDomain *domain, const OrtCustomOp *op);                                /* 27 */
    OrtStatus *(*add_domain)(OrtSessionOptions *options, OrtDomain *domain);                           /* 28 */
    OrtEntry skipped_29[22];
    OrtStatus *(*tensor_data)(OrtValue *value, void **out);                                            /* 51 */
    OrtEntry skipped_52[8];
    OrtStatus *(*element_type)(const OrtShape *shape, int *out);                                       /* 60 */
    OrtStatus *(*dimension_count)(const OrtShape *shape, size_t *out);                                 /* 61 */
    OrtStatus *(*dimensions)(const OrtShape *shape, int64_t *out, size_t count);                       /* 62 */
    OrtEntry skipped_63[1];
    OrtStatus *(*element_count)(const OrtShape *shape, size_t *out);                                   /* 64 */
    OrtStatus *(*type_and_shape)(const OrtValue *value, OrtShape **out);                               /* 65 */
    OrtEntry skipped_66[19];
    OrtStatus *(*attribute_float)(const OrtKernelInfo *info, const char *name, float *out);            /* 85 */
    OrtStatus *(*attribute_int)(const OrtKernelInfo *info, const char *name, int64_t *out);            /* 86 */
    OrtEntry skipped_87[3];
    OrtStatus *(*input)(const OrtKernelContext *context, size_t index, const OrtValue **out);          /* 90 */
    OrtStatus *(*output)(OrtKernelContext *context, size_t index, const int64_t *sizes, size_t rank, OrtValue **out);
    OrtEntry skipped_92[1];
    void (*release_status)(OrtStatus *status);                                                         /* 93 */
    OrtEntry skipped_94[5];
    void (*release_shape)(OrtShape *shape);                                                            /* 99 */
    OrtEntry skipped_100[149];
    OrtStatus *(*constant_input)(const OrtKernelInfo *info, size_t index, int *is_constant, const OrtValue **out);
    OrtEntry skipped_250[24];
    OrtStatus *(*parallel_for)(const OrtKernelContext *context, void (*body)(void *data, size_t index), size_t total,
                               size_t batches, void *data);                                            /* 274 */
} OrtApi;

typedef struct {
    const OrtApi *(*api)(uint32_t version);
    const char *(*version)(void);
} OrtApiBase;

struct OrtCustomOp {
    uint32_t version;
    void *(*create_kernel_1)(const OrtCustomOp *, const OrtApi *, const OrtKernelInfo *); /* of before version 16 */
    const char *(*name)(const OrtCustomOp *);
    const char *(*provider)(const OrtCustomOp *);
    int (*input_type)(const OrtCustomOp *, size_t);
    size_t (*input_count)(const OrtCustomOp *);
    int (*output_type)(const OrtCustomOp *, size_t);
    size_t (*output_count)(const OrtCustomOp *);
    void (*compute_1)(void *, OrtKernelContext *); /* of before version 16 */
    void (*destroy)(void *);
    int (*input_kind)(const OrtCustomOp *, size_t);
    int (*output_kind)(const OrtCustomOp *, size_t);
    int (*input_memory)(const OrtCustomOp *, size_t);
    int (*variadic_input_least)(const OrtCustomOp *);
    int (*variadic_input_alike)(const OrtCustomOp *);
    int (*variadic_output_least)(const OrtCustomOp *);
    int (*variadic_output_alike)(const OrtCustomOp *);
    OrtStatus *(*create_kernel)(const OrtCustomOp *, const OrtApi *, const OrtKernelInfo *, void **kernel);
    OrtStatus *(*compute)(void *kernel, OrtKernelContext *context);
    OrtStatus *(*infer_shapes)(const OrtCustomOp *, void *context);
    int (*first_version)(const OrtCustomOp *);
    int (*last_version)(const OrtCustomOp *);
};

_Static_assert(offsetof(OrtApi, release_shape) / sizeof(void *) == 99, "an entry of OrtApi is miscounted");
_Static_assert(offsetof(OrtApi, constant_input) / sizeof(void *) == 249, "an entry of OrtApi is miscounted");
_Static_assert(offsetof(OrtApi, parallel_for) / sizeof(void *) == 274, "an entry of OrtApi is miscounted");

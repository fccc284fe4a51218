/* The entry of the library. */
#include <stddef.h>

#include "operators.h"

#if defined(_WIN32)
#define EXPORT __declspec(dllexport)
#else
#define EXPORT __attribute__((visibility("default")))
#endif

/* Called by onnxruntime for each session that asks for this library. */
EXPORT OrtStatus *RegisterCustomOps(OrtSessionOptions *options, const OrtApiBase *base) {
    static OrtDomain *domain; /* lives as long as the library, as sessions may */
    const OrtApi *api = base->api(ORT_VERSION);
    if (!api) return NULL; /* too old: it has said so itself, and will miss the operators */
    if (!domain) {
        OrtDomain *made = NULL;
        TRY(api->create_domain("edgeport.simd", &made));
        TRY(api->domain_add(made, &matmul_nbits));
        TRY(api->domain_add(made, &dynamic_quantize_matmul));
        TRY(api->domain_add(made, &group_query_attention));
        TRY(api->domain_add(made, &multi_head_attention));
        domain = made;
    }
    return api->add_domain(options, domain);
}

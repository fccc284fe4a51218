/* What the kernels need of the processor. */
#pragma once

int processor_supported(void);

// Kernels for whatever the compiler was told to aim at: four floats at a time, which is NEON on ARM and SSE on x86.
#include "kernels.h"

#define VECTOR 4
#define ROWS 6
#if defined(__aarch64__)
#define NAME "neon"
#else
#define NAME "portable"
#endif
#define KERNELS portable_kernels
#include "kernels.inc"

// Kernels for processors with AVX2 and fused multiply-add.
#include "kernels.h"

#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC target("avx2,fma")
#endif
#define VECTOR 8
#define ROWS 6
#define NAME "avx2"
#define KERNELS avx2_kernels
#include "kernels.inc"
#if defined(__clang__)
#pragma clang attribute pop
#endif
#else
namespace movinet {
const Kernels *avx2_kernels() { return nullptr; }
}  // namespace movinet
#endif

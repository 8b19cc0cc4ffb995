// Kernels for processors with AVX-512.
#include "kernels.h"

#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512vl,avx512dq,avx2,fma"))), apply_to = function)
#else
#pragma GCC target("avx512f,avx512vl,avx512dq,avx2,fma")
#endif
#define VECTOR 16
#define ROWS 14
#define NAME "avx512"
#define KERNELS avx512_kernels
#include "kernels.inc"
#if defined(__clang__)
#pragma clang attribute pop
#endif
#else
namespace movinet {
const Kernels *avx512_kernels() { return nullptr; }
}  // namespace movinet
#endif

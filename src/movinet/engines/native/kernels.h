// What the network needs of a processor: a table of functions, one table per instruction set, chosen at run time.
#pragma once

#include <cstdint>

namespace movinet {

// Channels are padded to this many floats in memory, so that no kernel needs a tail in its innermost loop.
constexpr int LANE = 16;

enum Activation : int { NONE = 0, HARD_SWISH = 1, RELU6 = 2, SWISH = 3 };

struct Kernels {
    const char *name;
    // out[m][n] = act(sum_k in[m][k] * weights[n / LANE][k][n % LANE] + bias[n]) + add[m][n]; out and add have stride n.
    void (*gemm)(const float *in, int stride, int rows, int depth, const float *weights, const float *bias, int columns,
                 const float *add, float *out, int activation);
    // One row of a k x k depthwise convolution; rows[ky] point at the leftmost pixel that the first output meets.
    void (*depthwise)(const float *const *rows, int kernel, int stride, int pixels, int channels, const float *weights,
                      const float *bias, float *out, float *sums, int activation);
    // out[i] = act(sum_j weights[j] * frames[j][i] + bias), for each channel; adds the results to sums.
    void (*temporal)(const float *const *frames, int taps, int pixels, int channels, const float *weights,
                     const float *bias, float *out, float *sums, int activation);
    // x[i][c] *= gate[c]
    void (*scale)(float *x, int rows, int channels, const float *gate);
};

const Kernels *avx512_kernels();
const Kernels *avx2_kernels();
const Kernels *portable_kernels();

}  // namespace movinet

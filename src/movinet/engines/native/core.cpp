// The network: weights laid out for the kernels, the state of one stream, and one step.
//
// Activations are pixel by pixel, channels innermost and padded to LANE with zeros (padded weights are zero, and both
// activations map zero to zero). Batch norm and the learned scale of each block are folded into weights before they
// come here. The past of a temporal convolution is a ring of frames: the spatial convolution writes into the oldest.
#include "movinet.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <vector>

#include "kernels.h"

namespace movinet {
namespace {

int padded(int channels) { return (channels + LANE - 1) / LANE * LANE; }
int halved(int size, int stride) { return (size + stride - 1) / stride; }
int before(int size, int kernel, int stride) {  // SAME padding: the smaller half in front
    const int total = (halved(size, stride) - 1) * stride + kernel - size;
    return total > 0 ? total / 2 : 0;
}

const Kernels *choose() {
    const char *wish = std::getenv("MOVINET_INSTRUCTIONS");
    const Kernels *best = portable_kernels();
#if defined(__x86_64__)
    __builtin_cpu_init();
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
                        __builtin_cpu_supports("avx512dq");
    if (avx2 && (!wish || std::strcmp(wish, "portable") != 0)) best = avx2_kernels();
    if (avx512 && (!wish || std::strcmp(wish, "avx512") == 0)) best = avx512_kernels();
#else
    (void)wish;
#endif
    return best;
}

const Kernels &kernels() {
    static const Kernels *const table = choose();
    return *table;
}

// A zeroed array of floats on a cache line's boundary.
class Floats {
  public:
    void resize(size_t count) {
        count_ = count;
        const size_t bytes = (count * sizeof(float) + 63) / 64 * 64 + 64;
        data_.reset(static_cast<float *>(std::aligned_alloc(64, bytes)));
        if (!data_) throw std::bad_alloc();
        std::memset(data_.get(), 0, bytes);
    }
    void clear() {
        if (data_) std::memset(data_.get(), 0, count_ * sizeof(float));
    }
    float *get() { return data_.get(); }
    const float *get() const { return data_.get(); }
    size_t size() const { return count_; }

  private:
    struct Free {
        void operator()(float *p) const { std::free(p); }
    };
    std::unique_ptr<float, Free> data_;
    size_t count_ = 0;
};

// Reads weights in the order in which they are packed, and never past their end.
struct Reader {
    const float *at;
    int64_t left;
    bool failed = false;
    const float *take(int64_t count) {
        if (failed || count < 0 || count > left) {
            failed = true;
            return nullptr;
        }
        const float *found = at;
        at += count;
        left -= count;
        return found;
    }
};

// A dense layer or pointwise convolution: weights in groups of LANE columns, [depth][LANE] each.
struct Dense {
    int depth = 0, columns = 0, width = 0;
    Floats weights, bias;

    void read(Reader &reader, int inputs, int outputs) {
        depth = inputs;
        columns = outputs;
        width = padded(outputs);
        const float *w = reader.take(static_cast<int64_t>(inputs) * outputs);
        const float *b = reader.take(outputs);
        if (!w || !b) return;
        weights.resize(static_cast<size_t>(width) * inputs);
        bias.resize(width);
        for (int n = 0; n < outputs; ++n) {
            bias.get()[n] = b[n];
            for (int k = 0; k < inputs; ++k)
                weights.get()[(static_cast<size_t>(n / LANE) * inputs + k) * LANE + n % LANE] =
                    w[static_cast<size_t>(n) * inputs + k];
        }
    }
    void run(const float *in, int stride, int rows, const float *add, float *out, int activation) const {
        kernels().gemm(in, stride, rows, depth, weights.get(), bias.get(), width, add, out, activation);
    }
};

// A depthwise convolution, in space or in time: [tap][channel].
struct Taps {
    Floats weights, bias;
    void read(Reader &reader, int channels, int taps) {
        const float *w = reader.take(static_cast<int64_t>(channels) * taps);
        const float *b = reader.take(channels);
        if (!w || !b) return;
        const int width = padded(channels);
        weights.resize(static_cast<size_t>(width) * taps);
        bias.resize(width);
        for (int c = 0; c < channels; ++c) {
            bias.get()[c] = b[c];
            for (int t = 0; t < taps; ++t) weights.get()[t * width + c] = w[c * taps + t];
        }
    }
};

struct Block {
    int inputs, expand, out, time, space, stride, gate_width;
    bool skip, position;
    Dense expansion, projection, skipping, reduce, widen;
    Taps depthwise, temporal;
    float position_scale = 0;
    std::vector<float> rates;  // of the positional encoding, one per pair
};

float act(float x, int activation) {
    if (activation == HARD_SWISH) return x * std::fmin(std::fmax(x + 3.0f, 0.0f), 6.0f) / 6.0f;
    if (activation == RELU6) return std::fmin(std::fmax(x, 0.0f), 6.0f);
    if (activation == SWISH) return x / (1.0f + std::exp(-x));
    return x;
}

}  // namespace
}  // namespace movinet

using namespace movinet;

struct movinet_model {
    int channels, stem_width, head_width, hidden_width, classes, activation, hidden_activation, gate;
    Dense stem, head, hidden, output;
    std::vector<Block> blocks;
};

struct BlockState {
    int in_height, in_width, height, width, next = 0;  // next: the slot of the ring that is written next
    std::vector<Floats> ring;
    Floats pool;
};

struct movinet_state {
    const movinet_model *model;
    int height, width;
    int64_t count = 0;
    std::vector<BlockState> blocks;
    Floats head_pool;
    // Scratch that no step leaves anything in.
    Floats patches, x, y, skipped, wide, feature, sums, pooled, reduced, gate, scaled, hidden, logits;
};

namespace movinet {
namespace {

constexpr int HEADER = 9, FIELDS = 8;

bool read_model(movinet_model &model, const int32_t *spec, int length, const float *weights, int64_t count) {
    if (length < HEADER) return false;
    model.channels = spec[0];
    model.stem_width = spec[1];
    model.head_width = spec[2];
    model.hidden_width = spec[3];
    model.classes = spec[4];
    model.activation = spec[5];
    model.hidden_activation = spec[6];
    model.gate = spec[7];
    const int blocks = spec[8];
    if (blocks < 1 || length != HEADER + FIELDS * blocks) return false;
    Reader reader{weights, count};
    model.stem.read(reader, 9 * model.channels, model.stem_width);
    int inputs = model.stem_width;
    model.blocks.resize(blocks);
    for (int i = 0; i < blocks; ++i) {
        Block &block = model.blocks[i];
        const int32_t *field = spec + HEADER + FIELDS * i;
        block.inputs = inputs;
        block.expand = field[0];
        block.out = field[1];
        block.time = field[2];
        block.space = field[3];
        block.stride = field[4];
        block.gate_width = field[5];
        block.position = field[6] != 0;
        block.skip = field[7] != 0;
        const bool known = (block.time == 1 || block.time == 3 || block.time == 5) &&
                           (block.space == 3 || block.space == 5) && (block.stride == 1 || block.stride == 2);
        if (!known || (!block.skip && (block.out != inputs || block.stride != 1))) return false;
        block.expansion.read(reader, inputs, block.expand);
        block.depthwise.read(reader, block.expand, block.space * block.space);
        if (block.time > 1) block.temporal.read(reader, block.expand, block.time);
        if (block.gate_width) {
            block.reduce.read(reader, 2 * block.expand, block.gate_width);
            block.widen.read(reader, block.gate_width, block.expand);
        }
        if (block.position) {
            const float *scale = reader.take(1);
            block.position_scale = scale ? *scale : 0;
            for (int c = 0; c < 2 * block.expand; c += 2)
                block.rates.push_back(static_cast<float>(std::pow(10000.0, -double(c) / (2 * block.expand))));
        }
        block.projection.read(reader, block.expand, block.out);
        if (block.skip) block.skipping.read(reader, inputs, block.out);
        inputs = block.out;
    }
    model.head.read(reader, inputs, model.head_width);
    model.hidden.read(reader, model.head_width, model.hidden_width);
    model.output.read(reader, model.hidden_width, model.classes);
    return !reader.failed && reader.left == 0;
}

void make_state(movinet_state &state, const movinet_model &model, int height, int width) {
    state.model = &model;
    state.height = height;
    state.width = width;
    int h = halved(height, 2), w = halved(width, 2);
    state.patches.resize(static_cast<size_t>(w) * 9 * model.channels);
    size_t most_x = static_cast<size_t>(h) * w * padded(model.stem_width), most_wide = 0, most_feature = 0;
    size_t most_skipped = 0, most_scaled = 0;
    int most_channels = padded(model.head_width), most_gate = LANE;
    state.blocks.resize(model.blocks.size());
    for (size_t i = 0; i < model.blocks.size(); ++i) {
        const Block &block = model.blocks[i];
        BlockState &own = state.blocks[i];
        own.in_height = h;
        own.in_width = w;
        const int lanes = padded(block.expand), out_lanes = padded(block.out);
        const size_t wide = static_cast<size_t>(h + block.space - 1) * (w + block.space - 1) * lanes;
        own.height = h = halved(h, block.stride);
        own.width = w = halved(w, block.stride);
        const size_t pixels = static_cast<size_t>(h) * w;
        if (block.time > 1) {
            own.ring.resize(block.time);
            for (Floats &slot : own.ring) slot.resize(pixels * lanes);
        }
        own.pool.resize(lanes);
        most_wide = std::max(most_wide, wide);
        most_feature = std::max(most_feature, pixels * lanes);
        most_x = std::max(most_x, pixels * out_lanes);
        most_skipped = std::max(most_skipped, pixels * std::max(padded(block.inputs), out_lanes));
        most_scaled = std::max(most_scaled, static_cast<size_t>(block.expand) * out_lanes);
        most_channels = std::max(most_channels, lanes);
        most_gate = std::max(most_gate, padded(block.gate_width));
    }
    most_feature = std::max(most_feature, static_cast<size_t>(h) * w * padded(model.head_width));
    state.head_pool.resize(padded(model.head_width));
    state.x.resize(most_x);
    state.y.resize(most_x);
    state.skipped.resize(2 * most_skipped);
    state.wide.resize(most_wide);
    state.feature.resize(most_feature);
    state.sums.resize(most_channels);
    state.pooled.resize(2 * most_channels);
    state.reduced.resize(most_gate);
    state.gate.resize(most_channels);
    state.scaled.resize(most_scaled);
    state.hidden.resize(padded(model.hidden_width));
    state.logits.resize(padded(model.classes));
}

// The expanded rows lie in a picture with a border of zeros, so that the depthwise kernel needs no edges.
void expand_and_convolve(const Block &block, BlockState &own, movinet_state &state, int activation) {
    const int lanes = padded(block.expand), in_lanes = padded(block.inputs);
    const int top = before(own.in_height, block.space, block.stride);
    const int left = before(own.in_width, block.space, block.stride);
    const int row_pixels = own.in_width + block.space - 1;
    const size_t row = static_cast<size_t>(row_pixels) * lanes;
    float *const wide = state.wide.get();
    auto clear_row = [&](int y) { std::memset(wide + y * row, 0, row * sizeof(float)); };
    for (int y = 0; y < top; ++y) clear_row(y);
    int done = 0;  // rows of the input that are expanded

    float *const spatial = block.time > 1 ? own.ring[own.next].get() : state.feature.get();
    const float *frames[5];
    for (int j = 0; j < block.time && block.time > 1; ++j) frames[j] = own.ring[(own.next + 1 + j) % block.time].get();
    float *const sums = state.sums.get();
    std::memset(sums, 0, lanes * sizeof(float));

    for (int y = 0; y < own.height; ++y) {
        const int needed = std::min(own.in_height, y * block.stride - top + block.space);
        for (; done < needed; ++done) {
            float *at = wide + (done + top) * row;
            std::memset(at, 0, static_cast<size_t>(left) * lanes * sizeof(float));
            block.expansion.run(state.x.get() + static_cast<size_t>(done) * own.in_width * in_lanes, in_lanes,
                                own.in_width, nullptr, at + static_cast<size_t>(left) * lanes, activation);
            const size_t end = static_cast<size_t>(left + own.in_width) * lanes;
            std::memset(at + end, 0, (row - end) * sizeof(float));
        }
        const float *rows[5];
        for (int k = 0; k < block.space; ++k) {
            const int padded_y = y * block.stride + k;
            if (padded_y >= done + top) clear_row(padded_y);
            rows[k] = wide + padded_y * row;
        }
        const size_t offset = static_cast<size_t>(y) * own.width * lanes;
        kernels().depthwise(rows, block.space, block.stride, own.width, lanes, block.depthwise.weights.get(),
                            block.depthwise.bias.get(), spatial + offset, block.time > 1 ? nullptr : sums, activation);
        if (block.time > 1) {
            const float *here[5];
            for (int j = 0; j < block.time; ++j) here[j] = frames[j] + offset;
            kernels().temporal(here, block.time, own.width, lanes, block.temporal.weights.get(),
                               block.temporal.bias.get(), state.feature.get() + offset, sums, activation);
        }
    }
    if (block.time > 1) own.next = (own.next + 1) % block.time;
}

// The gates of one frame from the mean of all frames so far and that of this one.
void squeeze_and_excite(const movinet_model &model, const Block &block, BlockState &own, movinet_state &state) {
    const float area = 1.0f / (static_cast<float>(own.height) * static_cast<float>(own.width));
    const float frames = static_cast<float>(state.count + 1);
    float *const pooled = state.pooled.get(), *const pool = own.pool.get();
    for (int c = 0; c < block.expand; ++c) {
        const float mean = state.sums.get()[c] * area;
        pool[c] += mean;
        pooled[c] = pool[c] / frames;
        pooled[block.expand + c] = mean;
    }
    if (block.position) {
        const float number = static_cast<float>(state.count);
        for (int pair = 0; pair < block.expand; ++pair) {
            const float angle = number * block.rates[pair];
            pooled[pair] += block.position_scale * std::sin(angle);
            pooled[block.expand + pair] += block.position_scale * std::cos(angle);
        }
    }
    block.reduce.run(pooled, 0, 1, nullptr, state.reduced.get(), model.activation);
    block.widen.run(state.reduced.get(), 0, 1, nullptr, state.gate.get(), NONE);
    for (int c = 0; c < block.expand; ++c) {
        const float v = state.gate.get()[c];
        state.gate.get()[c] = model.gate == 0 ? std::fmin(std::fmax(v + 3.0f, 0.0f), 6.0f) * 0.16667f
                              : model.gate == 1 ? std::fmin(std::fmax(0.2f * v + 0.5f, 0.0f), 1.0f)
                                                : 1.0f / (1.0f + std::exp(-v));
    }
}

// 3 x 3 average pooling with stride 2, padding left out of the mean.
void average_pool(const float *in, int height, int width, int lanes, float *out) {
    const int out_height = halved(height, 2), out_width = halved(width, 2);
    const int top = before(height, 3, 2), left = before(width, 3, 2);
    for (int y = 0; y < out_height; ++y) {
        const int y0 = std::max(0, 2 * y - top), y1 = std::min(height, 2 * y - top + 3);
        for (int x = 0; x < out_width; ++x) {
            const int x0 = std::max(0, 2 * x - left), x1 = std::min(width, 2 * x - left + 3);
            float *at = out + (static_cast<size_t>(y) * out_width + x) * lanes;
            const float share = 1.0f / static_cast<float>((y1 - y0) * (x1 - x0));
            std::memset(at, 0, lanes * sizeof(float));
            for (int i = y0; i < y1; ++i)
                for (int j = x0; j < x1; ++j) {
                    const float *from = in + (static_cast<size_t>(i) * width + j) * lanes;
                    for (int c = 0; c < lanes; ++c) at[c] += from[c];
                }
            for (int c = 0; c < lanes; ++c) at[c] *= share;
        }
    }
}

void run_block(const movinet_model &model, const Block &block, BlockState &own, movinet_state &state) {
    const int lanes = padded(block.expand), in_lanes = padded(block.inputs), out_lanes = padded(block.out);
    const int pixels = own.height * own.width;
    expand_and_convolve(block, own, state, model.activation);
    const float *projection = block.projection.weights.get();
    if (block.gate_width) {
        squeeze_and_excite(model, block, own, state);
        const float *gate = state.gate.get();
        if (pixels > out_lanes) {  // the gate goes to whichever is smaller, the features or the weights
            float *scaled = state.scaled.get();
            for (int n = 0; n < out_lanes; n += LANE)
                for (int k = 0; k < block.expand; ++k)
                    for (int l = 0; l < LANE; ++l) {
                        const size_t at = (static_cast<size_t>(n / LANE) * block.expand + k) * LANE + l;
                        scaled[at] = projection[at] * gate[k];
                    }
            projection = scaled;
        } else {
            kernels().scale(state.feature.get(), pixels, lanes, gate);
        }
    }
    const float *skipped = state.x.get();
    if (block.skip) {
        const float *source = state.x.get();
        if (block.stride == 2) {
            float *pooled = state.skipped.get() + state.skipped.size() / 2;
            average_pool(source, own.in_height, own.in_width, in_lanes, pooled);
            source = pooled;
        }
        block.skipping.run(source, in_lanes, pixels, nullptr, state.skipped.get(), NONE);
        skipped = state.skipped.get();
    }
    kernels().gemm(state.feature.get(), lanes, pixels, block.expand, projection, block.projection.bias.get(), out_lanes,
                   skipped, state.y.get(), NONE);
    std::swap(state.x, state.y);
}

template <typename Pixel> void run_stem(const movinet_model &model, movinet_state &state, const Pixel *frame) {
    const int channels = model.channels, lanes = padded(model.stem_width), depth = 9 * channels;
    const int height = halved(state.height, 2), width = halved(state.width, 2);
    const int top = before(state.height, 3, 2), left = before(state.width, 3, 2);
    const float unit = sizeof(Pixel) == 1 ? 1.0f / 255.0f : 1.0f;
    float *const patches = state.patches.get();
    for (int y = 0; y < height; ++y) {
        for (int ky = 0; ky < 3; ++ky) {
            const int row = 2 * y - top + ky;
            for (int x = 0; x < width; ++x) {
                float *at = patches + static_cast<size_t>(x) * depth + ky * 3 * channels;
                for (int kx = 0; kx < 3; ++kx, at += channels) {
                    const int column = 2 * x - left + kx;
                    const bool inside = row >= 0 && row < state.height && column >= 0 && column < state.width;
                    const Pixel *from = frame + (static_cast<size_t>(inside ? row : 0) * state.width +
                                                 (inside ? column : 0)) * channels;
                    for (int c = 0; c < channels; ++c) at[c] = inside ? static_cast<float>(from[c]) * unit : 0.0f;
                }
            }
        }
        model.stem.run(patches, depth, width, nullptr, state.x.get() + static_cast<size_t>(y) * width * lanes,
                       model.activation);
    }
}

template <typename Pixel>
void step(const movinet_model &model, movinet_state &state, const Pixel *frame, float *logits) {
    run_stem(model, state, frame);
    for (size_t i = 0; i < model.blocks.size(); ++i) run_block(model, model.blocks[i], state.blocks[i], state);
    const BlockState &last = state.blocks.back();
    const int pixels = last.height * last.width, lanes = padded(model.head_width);
    model.head.run(state.x.get(), padded(model.blocks.back().out), pixels, nullptr, state.feature.get(),
                   model.activation);
    float *const sums = state.sums.get();
    std::memset(sums, 0, lanes * sizeof(float));
    for (int i = 0; i < pixels; ++i)
        for (int c = 0; c < lanes; ++c) sums[c] += state.feature.get()[static_cast<size_t>(i) * lanes + c];
    ++state.count;
    const float share = 1.0f / static_cast<float>(pixels), frames = static_cast<float>(state.count);
    for (int c = 0; c < lanes; ++c) {
        state.head_pool.get()[c] += sums[c] * share;
        state.pooled.get()[c] = state.head_pool.get()[c] / frames;
    }
    if (!logits) return;
    const bool apart = model.hidden_activation == SWISH;  // the only one that the kernels do not have
    model.hidden.run(state.pooled.get(), 0, 1, nullptr, state.hidden.get(), apart ? NONE : model.hidden_activation);
    if (apart)
        for (int c = 0; c < model.hidden_width; ++c) state.hidden.get()[c] = act(state.hidden.get()[c], SWISH);
    model.output.run(state.hidden.get(), 0, 1, nullptr, state.logits.get(), NONE);
    std::memcpy(logits, state.logits.get(), model.classes * sizeof(float));
}

// Between a ring, pixel by pixel, and (kt - 1, channels, h, w), oldest first.
template <typename Copy> void over_buffer(const movinet_state &state, int index, Copy copy) {
    const Block &block = state.model->blocks[index];
    const BlockState &own = state.blocks[index];
    const int lanes = padded(block.expand), pixels = own.height * own.width;
    for (int t = 0; t + 1 < block.time; ++t) {
        const size_t slot = (own.next + 1 + t) % block.time;
        for (int c = 0; c < block.expand; ++c)
            for (int i = 0; i < pixels; ++i)
                copy(slot, static_cast<size_t>(i) * lanes + c, (static_cast<size_t>(t) * block.expand + c) * pixels + i);
    }
}

}  // namespace
}  // namespace movinet

extern "C" {

movinet_model *movinet_model_create(const int32_t *spec, int32_t spec_length, const float *weights, int64_t count) {
    try {
        auto model = std::make_unique<movinet_model>();
        return read_model(*model, spec, spec_length, weights, count) ? model.release() : nullptr;
    } catch (const std::bad_alloc &) {
        return nullptr;
    }
}

void movinet_model_free(movinet_model *model) { delete model; }

movinet_state *movinet_state_create(const movinet_model *model, int32_t height, int32_t width) {
    try {
        auto state = std::make_unique<movinet_state>();
        make_state(*state, *model, height, width);
        return state.release();
    } catch (const std::bad_alloc &) {
        return nullptr;
    }
}

void movinet_state_free(movinet_state *state) { delete state; }

void movinet_state_reset(movinet_state *state) {
    state->count = 0;
    state->head_pool.clear();
    for (BlockState &own : state->blocks) {
        own.pool.clear();
        for (Floats &slot : own.ring) slot.clear();
    }
}

void movinet_step_u8(const movinet_model *model, movinet_state *state, const uint8_t *frame, float *logits) {
    step(*model, *state, frame, logits);
}

void movinet_step_f32(const movinet_model *model, movinet_state *state, const float *frame, float *logits) {
    step(*model, *state, frame, logits);
}

void movinet_state_get_buffer(const movinet_state *state, int32_t block, float *out) {
    const BlockState &own = state->blocks[block];
    over_buffer(*state, block, [&](size_t slot, size_t here, size_t there) { out[there] = own.ring[slot].get()[here]; });
}

void movinet_state_put_buffer(movinet_state *state, int32_t block, const float *in) {
    BlockState &own = state->blocks[block];
    over_buffer(*state, block, [&](size_t slot, size_t here, size_t there) { own.ring[slot].get()[here] = in[there]; });
}

void movinet_state_get_pool(const movinet_state *state, int32_t block, float *out) {
    const bool head = block < 0;
    const Floats &pool = head ? state->head_pool : state->blocks[block].pool;
    const int channels = head ? state->model->head_width : state->model->blocks[block].expand;
    std::memcpy(out, pool.get(), channels * sizeof(float));
}

void movinet_state_put_pool(movinet_state *state, int32_t block, const float *in) {
    const bool head = block < 0;
    Floats &pool = head ? state->head_pool : state->blocks[block].pool;
    const int channels = head ? state->model->head_width : state->model->blocks[block].expand;
    std::memcpy(pool.get(), in, channels * sizeof(float));
}

int64_t movinet_state_get_count(const movinet_state *state) { return state->count; }
void movinet_state_put_count(movinet_state *state, int64_t count) { state->count = count; }

const char *movinet_instructions(void) { return kernels().name; }

}  // extern "C"

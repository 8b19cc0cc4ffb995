/* The native engine: a whole streaming step of a MoViNet in one call. Plain C interface, no dependency.
 *
 * A model (weights, shared by any number of threads) and a state (one stream, one thread at a time) are two opaque
 * things. Nothing is allocated after movinet_state_create.
 */
#ifndef MOVINET_H
#define MOVINET_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct movinet_model movinet_model;
typedef struct movinet_state movinet_state;

/* `spec`: the integers that `movinet.engines.native.pack` writes; `weights`: its floats, all norms folded, `count` of
 * them. NULL where the two do not fit each other. The arrays may be freed afterwards. */
movinet_model *movinet_model_create(const int32_t *spec, int32_t spec_length, const float *weights, int64_t count);
void movinet_model_free(movinet_model *model);

/* The zero state of one stream of pictures of height x width pixels; NULL if there is no memory for it. */
movinet_state *movinet_state_create(const movinet_model *model, int32_t height, int32_t width);
void movinet_state_free(movinet_state *state);
void movinet_state_reset(movinet_state *state);

/* Feed one frame, height x width x channels, uint8 (divided by 255) or float32 as it is, and advance the state.
 * `logits` (classes) may be NULL: then the classifier is not run. */
void movinet_step_u8(const movinet_model *model, movinet_state *state, const uint8_t *frame, float *logits);
void movinet_step_f32(const movinet_model *model, movinet_state *state, const float *frame, float *logits);

/* The state in its portable form: buffers (kt - 1, channels, h, w) oldest first, pools (channels), one count.
 * `block` -1 is the head's pool. Sizes are those of `movinet.state.state_shapes`. */
void movinet_state_get_buffer(const movinet_state *state, int32_t block, float *out);
void movinet_state_put_buffer(movinet_state *state, int32_t block, const float *in);
void movinet_state_get_pool(const movinet_state *state, int32_t block, float *out);
void movinet_state_put_pool(movinet_state *state, int32_t block, const float *in);
int64_t movinet_state_get_count(const movinet_state *state);
void movinet_state_put_count(movinet_state *state, int64_t count);

/* The instruction set in use: "avx512", "avx2", "neon" or "portable". */
const char *movinet_instructions(void);

#ifdef __cplusplus
}
#endif
#endif

// Logits to tokens on a CPU, one call for all rows of a step.
#pragma once

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

// Calls task(arg, 0) ... task(arg, n - 1), in any order and on any threads, and returns once all
// of them have.
typedef void (*mv_run)(void *pool, int n, void (*task)(void *arg, int index), void *arg);

// How one row's token is chosen. worker/engine/native/sampling.py packs the same fields in the
// same order. Null pointers where there are none of a kind.
typedef struct {
  double temperature;
  double top_p;
  double min_p;
  double uniform;  // the draw, in [0, 1)
  int32_t greedy;  // then the four above, and top_k, don't matter
  int32_t top_k;   // 0 keeps every token
  float repetition;
  float presence;
  float frequency;
  int32_t biased;  // how many tokens bias_ids and bias have
  int32_t seen;    // how many seen_ids and times have
  int32_t reserved;
  const int32_t *bias_ids;
  const float *bias;        // added before anything else
  const int32_t *seen_ids;  // tokens of prompt and answer, each once
  const float *times;       // how often the answer has them
  const uint32_t *allowed;  // a bit for each token, the lowest first
} mv_sampling;

// Writes a token for each row to `tokens`. A row's depends on that row alone. Logits are float
// [rows, vocab], `stride` floats from row to row, and are overwritten.
void mv_sample(float *logits, int64_t stride, int32_t rows, int32_t vocab,
               const mv_sampling *sampling, int32_t *tokens, mv_run run, void *pool);

#ifdef __cplusplus
}
#endif

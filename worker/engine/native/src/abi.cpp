// What Python calls. Every function returns 0, or -1 where memory is short.

#include <new>
#include <vector>

#include "model.h"
#include "pool.h"

namespace {

template <class Function>
int guarded(const Function& function) {
    try {
        function();
        return 0;
    } catch (const std::bad_alloc&) {
        return -1;
    }
}

}  // namespace

extern "C" {

/// Changes whenever anything below does.
int mv_abi() { return 1; }

int mv_pool_new(int threads, mv::Pool** pool) {
    return guarded([&] { *pool = new mv::Pool(threads); });
}

void mv_pool_free(mv::Pool* pool) { delete pool; }

/// An `mv_run` (sampler.h).
void mv_pool_run(void* pool, int count, void (*task)(void*, int), void* arg) {
    mv::Pool& threads = *static_cast<mv::Pool*>(pool);
    threads.run(count, [&](int i) { task(arg, i); });
}

int mv_model_new(mv::Pool* pool, const mv::Config* config, const float* cosines, const float* sines,
                 mv::Model** model) {
    return guarded([&] { *model = new mv::Model(*pool, *config, cosines, sines); });
}

void mv_model_free(mv::Model* model) { delete model; }

int mv_model_add_layer(mv::Model* model, const mv::LayerSource* source) {
    return guarded([&] { model->add_layer(*source); });
}

int mv_model_set_ends(mv::Model* model, const uint16_t* embeddings, const float* norm, const float* head) {
    return guarded([&] { model->set_ends(embeddings, norm, head); });
}

int64_t mv_model_bytes(const mv::Model* model) { return model->bytes(); }

/// `segments`: [segment_count] in the order of their tokens; `caches`: one for each layer.
int mv_forward(mv::Model* model, const int32_t* ids, const mv::Segment* segments, int segment_count,
               const mv::LayerCache* caches, const int32_t* wanted, int wanted_count, float* logits,
               int64_t stride) {
    return guarded([&] {
        const std::vector<mv::Segment> given(segments, segments + segment_count);
        model->forward(ids, given, caches, wanted, wanted_count, logits, stride);
    });
}
}

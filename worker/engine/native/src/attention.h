// Attention over the rows of the KV cache, each query up to its own position.

#pragma once

#include <cstdint>
#include <vector>

#include "pool.h"

namespace mv {

/// Keys that lie together, turned on their side so that 16 of them are scored at once. Also what
/// the prefix cache copies.
constexpr int kKeysTogether = 16;

/// The cache of one layer, in half precision. Both lie as [rows][heads][columns][size]; within
/// each 16 columns of `keys` it is [size][16].
struct LayerCache {
    uint16_t* keys;
    uint16_t* values;
};

struct AttentionShape {
    int heads;     ///< of queries; a multiple of `kv_heads`
    int kv_heads;
    int size;      ///< of a head; a multiple of 64
    int columns;   ///< of a cache row; a multiple of 16
    float scaling;
    int window;    ///< how many tokens are seen, the query's own included; 0: all
};

/// New tokens of one cache row: those from `first` on in the batch, at positions from `start` on.
struct Segment {
    int32_t row;
    int32_t start;
    int32_t first;
    int32_t count;
};

/// Store a token's keys and values, of all heads, in the column of its position. `token` has all
/// heads' queries, then keys, then values, positions already applied.
void keep(const AttentionShape& shape, const LayerCache& cache, int row, int position,
          const float* token);

/// How the queries of a pass are shared out, the same in all layers.
class Attention {
   public:
    explicit Attention(int threads) : scratch_(threads) {}

    /// For a pass of these segments.
    void prepare(const AttentionShape& shape, const std::vector<Segment>& segments);

    /// How many tasks there are.
    int tasks() const { return static_cast<int>(parts_.size()); }

    /// Attend to what is kept. `qkv` is [tokens][stride], as `keep` has it; `out` is
    /// [tokens][heads * size].
    void run(Turn& turn, const AttentionShape& shape, const LayerCache& cache, const float* qkv,
             int64_t stride, float* out);

   private:
    struct Part {
        int row, start, first;  // of the cache; position and number of its first token
        int count;              // of tokens
        int head;
    };
    struct Scratch {
        std::vector<float> scores, out;
    };

    std::vector<Part> parts_;
    std::vector<Scratch> scratch_;  // of each thread
};

}  // namespace mv

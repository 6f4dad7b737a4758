// Matrix products of int8 weights and int8 activations.
//
// Both are scaled by groups of their inputs, and both are turned first: each 64 inputs by a
// Hadamard matrix, which spreads outliers over their neighbours and leaves the product as it is
// (QuaRot, Ashkboos et al. 2024). Activations are scaled per token, so none depends on another,
// and products of integers are exact, in whatever order they are summed.

#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "pool.h"

namespace mv {

/// Inputs that are turned together; every number of inputs is a multiple.
constexpr int kTurned = 64;
/// Outputs that are computed together.
constexpr int kBlock = 64;

/// Weights [outputs, inputs], quantized. Immutable.
class Weights {
   public:
    Weights(Pool& pool, const float* rows, const float* bias, int outputs, int inputs);

    int outputs() const { return outputs_; }
    int inputs() const { return inputs_; }
    int blocks() const { return blocks_; }
    int groups() const { return inputs_ / group_; }
    int group() const { return group_; }
    /// Of one block: [inputs / 4][kBlock][4].
    const uint8_t* block(int i) const { return bytes_.get() + int64_t{i} * kBlock * inputs_; }
    /// Of one block: [groups][kBlock].
    const float* scales(int i) const { return scales_.data() + int64_t{i} * kBlock * groups(); }
    /// Of one block: [kBlock].
    const float* bias(int i) const { return bias_.data() + int64_t{i} * kBlock; }
    int64_t bytes() const;

   private:
    struct Unmap {
        int64_t size;
        void operator()(uint8_t* p) const;
    };

    void pack_row(const float* row, int output);

    int outputs_, inputs_, blocks_, group_;
    std::unique_ptr<uint8_t[], Unmap> bytes_;
    std::vector<float> scales_;
    std::vector<float> bias_;
};

/// Rows of activations, quantized for one number of inputs at a time.
class Activations {
   public:
    /// Room for `rows` of `inputs` numbers.
    void reserve(int rows, int inputs);

    /// Quantize a row: `values` [inputs], each times `gain` [inputs] if that is given and times
    /// `factor`. Rows are independent of each other.
    void set(int row, const float* values, const float* gain, float factor, int inputs, int group);

    const int8_t* row(int i, int inputs) const { return bytes_.data() + int64_t{i} * inputs; }
    float scale(int row, int group, int groups) const { return scales_[int64_t{row} * groups + group]; }
    int32_t sum(int row, int group, int groups) const { return sums_[int64_t{row} * groups + group]; }

   private:
    std::vector<int8_t> bytes_;
    std::vector<float> scales_;
    std::vector<int32_t> sums_;
};

/// What becomes of a product [rows, outputs].
enum class Into {
    kStore,     ///< out[row][output] = product
    kAdd,       ///< out[row][output] += product
    kGatedSilu  ///< outputs are 16 gates and 16 values in turn: out[row][i] = silu(gate) * value
};

/// Multiply `rows` rows of `in`. `stride`: floats from one row of `out` to the next.
void multiply(Turn& turn, const Weights& weights, const Activations& in, int rows, Into into,
              float* out, int64_t stride);

/// How many tasks that is.
int tasks_of(const Weights& weights, int rows);

/// The largest group that divides `inputs`: 64 to 256 inputs.
int group_of(int inputs);

}  // namespace mv

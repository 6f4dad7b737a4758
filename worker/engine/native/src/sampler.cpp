// The same choice as worker/engine/sampler.py makes with torch, without sorting the vocabulary.
//
// A row is treated in blocks. Their maxima tell where its likeliest tokens are; their sums tell
// where a draw falls, so that only one of them is looked at token by token. The order of sums does
// not depend on how wide the machine's vectors are: built without contracting multiplications and
// additions (-ffp-contract=off), it gives the same bits everywhere.

#include "sampler.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <vector>

#define INLINE __attribute__((always_inline)) inline

namespace {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX2__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif
constexpr int kBlock = 256;
constexpr int kSums = 64;  // of a block's numbers: every 64th into the same
constexpr float kNever = -std::numeric_limits<float>::infinity();

typedef float Floats __attribute__((vector_size(kLanes * 4)));
typedef int32_t Ints __attribute__((vector_size(kLanes * 4)));

INLINE Floats load(const float *from) {
  Floats values;
  std::memcpy(&values, from, sizeof values);
  return values;
}

INLINE void store(float *to, const Floats &values) { std::memcpy(to, &values, sizeof values); }

// The sum of a block: four times in float, then twice, then in double.
class Sum {
 public:
  INLINE void add(int place, const Floats &values) { parts_[place % kSums / kLanes] += values; }

  INLINE double value() const {
    constexpr int kStride = 16 / kLanes;
    float folded[16];
    for (int i = 0; i < kStride; ++i) {
      store(folded + i * kLanes, (parts_[i] + parts_[i + kStride]) +
                                     (parts_[i + 2 * kStride] + parts_[i + 3 * kStride]));
    }
    double doubles[8];
    for (int i = 0; i < 8; ++i) {
      doubles[i] = static_cast<double>(folded[i]) + static_cast<double>(folded[i + 8]);
    }
    for (int i = 0; i < 4; ++i) doubles[i] += doubles[i + 4];
    return (doubles[0] + doubles[2]) + (doubles[1] + doubles[3]);
  }

 private:
  Floats parts_[kSums / kLanes] = {};
};

// e to the power of values up to 0, within 2 units in the last place; exactly 1 at 0, and 0 below
// -86 and for NaN. After Cephes' expf.
INLINE Floats exponential(const Floats &x) {
  const Floats clamped = x > -86.0f ? x : Floats{} - 86.0f;
  const Floats shifted = clamped * 1.44269504f + 12582912.0f;  // its low bits hold the integer
  const Floats whole = shifted - 12582912.0f;
  const Floats rest = (clamped - whole * 0.693359375f) - whole * -2.12194440e-4f;
  Floats y = rest * 1.9875691500e-4f + 1.3981999507e-3f;
  y = y * rest + 8.3334519073e-3f;
  y = y * rest + 4.1665795894e-2f;
  y = y * rest + 1.6666665459e-1f;
  y = y * rest + 5.0000001201e-1f;
  y = y * (rest * rest) + rest + 1.0f;
  const Floats scaled = (Floats)((Ints)y + ((Ints)shifted << 23));
  return x > -86.0f ? scaled : Floats{};
}

class Row {
 public:
  Row(float *logits, int size, const mv_sampling &how)
      : values_(logits), size_(size), how_(how), blocks_((size + kBlock - 1) / kBlock) {}

  int choose() {
    adjust();
    find_maxima();
    temperature_ = static_cast<float>(how_.temperature);
    top_ = best_ / temperature_;
    if (how_.greedy || !std::isfinite(top_)) return first_best();
    if (how_.top_k > 0 && how_.top_k < size_) least_ = kth_largest(how_.top_k) / temperature_;
    weigh();
    if (stored_) filter();
    return draw();
  }

 private:
  float *begin(int block) const { return values_ + block * kBlock; }
  int count(int block) const { return std::min(kBlock, size_ - block * kBlock); }

  // A whole block, filled up with what is never drawn where the row ends before it does.
  const float *whole(int block, float (&scratch)[kBlock]) const {
    const int n = count(block);
    if (n == kBlock) return begin(block);
    std::fill(std::copy(begin(block), begin(block) + n, scratch), scratch + kBlock, kNever);
    return scratch;
  }

  void adjust() {
    for (int i = 0; i < how_.biased; ++i) {
      const int id = how_.bias_ids[i];
      if (id >= 0 && id < size_) values_[id] += how_.bias[i];
    }
    for (int i = 0; i < how_.seen; ++i) {
      const int id = how_.seen_ids[i];
      if (id < 0 || id >= size_) continue;
      float &value = values_[id];
      if (how_.repetition != 1) {
        value = value > 0 ? value / how_.repetition : value * how_.repetition;
      }
      if (how_.times[i] > 0) value -= how_.presence + how_.frequency * how_.times[i];
    }
  }

  // And forbid what the grammar does, on the way.
  void find_maxima() {
    maxima_.resize(blocks_);
    float scratch[kBlock];
    for (int block = 0; block < blocks_; ++block) {
      if (how_.allowed != nullptr) forbid(block);
      const Floats most = lane_maxima(whole(block, scratch));
      float best = most[0];
      for (int lane = 1; lane < kLanes; ++lane) best = most[lane] > best ? most[lane] : best;
      maxima_[block] = best;
      best_ = std::max(best_, best);
    }
  }

  static INLINE Floats lane_maxima(const float *values) {
    Floats most = Floats{} + kNever;
    for (int i = 0; i < kBlock; i += kLanes) {
      const Floats some = load(values + i);
      most = some > most ? some : most;
    }
    return most;
  }

  void forbid(int block) {
    float *const values = begin(block);
    const uint32_t *const words = how_.allowed + block * (kBlock / 32);
    for (int i = 0; i < count(block); ++i) {
      values[i] = (words[i / 32] >> (i % 32)) & 1 ? values[i] : kNever;
    }
  }

  int first_best() const {
    for (int block = 0; block < blocks_; ++block) {
      if (maxima_[block] != best_) continue;
      const float *const values = begin(block);
      for (int i = 0; i < count(block); ++i) {
        if (values[i] == best_) return block * kBlock + i;
      }
    }
    return 0;  // all of them NaN
  }

  // The kth largest logit. That of the blocks' maxima, or of their lanes', is no larger, and
  // few logits are as large.
  float kth_largest(int k) const {
    float bound = kNever;
    std::vector<float> found = maxima_;
    if (k > blocks_) {
      found.resize(static_cast<size_t>(blocks_) * kLanes);
      float scratch[kBlock];
      for (int block = 0; block < blocks_; ++block) {
        store(&found[static_cast<size_t>(block) * kLanes], lane_maxima(whole(block, scratch)));
      }
    }
    if (static_cast<size_t>(k) <= found.size()) bound = kth(found, k);
    found.clear();
    for (int block = 0; block < blocks_; ++block) {
      if (maxima_[block] < bound) continue;
      const float *const values = begin(block);
      for (int i = 0; i < count(block); ++i) {
        if (values[i] >= bound && values[i] > kNever) found.push_back(values[i]);
      }
    }
    return static_cast<size_t>(k) <= found.size() ? kth(found, k) : kNever;
  }

  static float kth(std::vector<float> &values, int k) {
    std::nth_element(values.begin(), values.begin() + (k - 1), values.end(), std::greater<>());
    return values[k - 1];
  }

  // Probabilities but for a common factor, 0 below `least_`; the likeliest token's is 1.
  double weigh(int block, float (&weights)[kBlock]) const {
    const float *const values = whole(block, weights);
    Sum sum;
    for (int i = 0; i < kBlock; i += kLanes) {
      const Floats scaled = load(values + i) / temperature_;
      const Floats some = scaled < least_ ? Floats{} : exponential(scaled - top_);
      sum.add(i, some);
      store(weights + i, some);
    }
    return sum.value();
  }

  void weigh() {
    stored_ = how_.top_p < 1 || how_.min_p > 0;
    sums_.assign(blocks_, 0);
    float weights[kBlock];
    for (int block = 0; block < blocks_; ++block) {
      if (maxima_[block] / temperature_ < least_) continue;
      sums_[block] = weigh(block, weights);
      if (stored_) std::copy(weights, weights + count(block), begin(block));
    }
  }

  double total() const {
    double all = 0;
    for (const double sum : sums_) all += sum;
    return all;
  }

  // Drop what top_p and min_p do. No weight is larger than its block's sum.
  void filter() {
    float floor = static_cast<float>(how_.min_p);
    int ties = kAll;  // how many as small as `floor` are kept
    if (how_.top_p < 1) find_nucleus(floor, ties);
    float scratch[kBlock];
    for (int block = 0; block < blocks_; ++block) {
      if (sums_[block] <= floor * kRounded) {
        sums_[block] = 0;
        continue;
      }
      if (ties != kAll) keep_ties(block, floor, ties);
      const float *const weights = whole(block, scratch);
      Sum sum;
      for (int i = 0; i < kBlock; i += kLanes) {
        const Floats some = load(weights + i);
        const Floats kept = some >= floor ? some : Floats{};
        sum.add(i, kept);
        store(scratch + i, kept);
      }
      std::copy(scratch, scratch + count(block), begin(block));
      sums_[block] = sum.value();
    }
  }

  void keep_ties(int block, float weight, int &left) {
    float *const weights = begin(block);
    for (int i = 0; i < count(block); ++i) {
      if (weights[i] == weight && left-- <= 0) weights[i] = 0;
    }
  }

  // Raises `floor` to the smallest weight of the smallest set that holds top_p of the whole. Of
  // those exactly as small as that, the first `ties` are in the set.
  void find_nucleus(float &floor, int &ties) const {
    const double all = total();
    const double wanted = how_.top_p * all;
    // Together, those below this can't make up what the set may leave out.
    const float least = static_cast<float>((1 - how_.top_p) * all / size_ * kRounded);
    std::vector<float> likely(size_);
    size_t found = 0;
    for (int block = 0; block < blocks_; ++block) {
      if (sums_[block] <= least * kRounded) continue;
      const float *const weights = begin(block);
      for (int i = 0; i < count(block); ++i) {
        likely[found] = weights[i];
        found += weights[i] > least;
      }
    }
    likely.resize(found);
    // By their leading bits: an eighth of an octave to a bucket, or less.
    std::vector<double> buckets(kBuckets, 0.0);
    for (const float weight : likely) buckets[bucket_of(weight)] += weight;
    double before = 0;
    int bucket = kBuckets - 1;
    while (bucket > 0 && (buckets[bucket] == 0 || before + buckets[bucket] < wanted)) {
      before += buckets[bucket--];
    }
    std::vector<float> last;
    for (const float weight : likely) {
      if (bucket_of(weight) == bucket) last.push_back(weight);
    }
    std::sort(last.begin(), last.end(), std::greater<>());
    size_t kept = 0;
    while (kept < last.size() && (before < wanted || (before == 0 && kept == 0))) {
      before += last[kept++];
    }
    if (kept == 0 || last[kept - 1] < floor) return;
    floor = last[kept - 1];
    const auto tied = std::equal_range(last.begin(), last.end(), floor, std::greater<>());
    if (tied.second != last.begin() + static_cast<std::ptrdiff_t>(kept)) {
      ties = static_cast<int>(last.begin() + static_cast<std::ptrdiff_t>(kept) - tied.first);
    }
  }

  static int bucket_of(float weight) {
    int32_t bits;
    std::memcpy(&bits, &weight, sizeof bits);
    return bits >> kBucketShift;
  }

  // By inverting the cumulative distribution, in the order of the tokens' ids.
  int draw() const {
    const double target = how_.uniform * total();
    double before = 0, after = 0;
    int last = 0;
    for (int block = 0; block < blocks_; ++block) {
      if (sums_[block] == 0) continue;
      last = block;
      before = after;
      after += sums_[block];
      if (after > target) break;
    }
    float scratch[kBlock];
    const float *weights = begin(last);
    if (!stored_) {
      weigh(last, scratch);
      weights = scratch;
    }
    // Where the product, or a sum, was rounded beyond the block: the last token with any.
    int chosen = 0;
    for (int i = 0; i < count(last); ++i) {
      if (weights[i] == 0) continue;
      chosen = last * kBlock + i;
      before += weights[i];
      if (before > target) break;
    }
    return chosen;
  }

  static constexpr int kAll = std::numeric_limits<int>::max();
  static constexpr float kRounded = 0.999f;  // more than sums lose to rounding
  static constexpr int kBucketShift = 19;
  static constexpr int kBuckets = (0x3f800000 >> kBucketShift) + 1;  // up to 1

  float *const values_;  // logits; once stored_, weights in blocks whose sum is not 0
  const int size_;
  const mv_sampling &how_;
  const int blocks_;
  std::vector<float> maxima_;
  std::vector<double> sums_;
  float best_ = kNever;
  float temperature_ = 1;
  float top_ = 0;
  float least_ = kNever;  // scaled logits below this are out
  bool stored_ = false;
};

struct Step {
  float *logits;
  int64_t stride;
  int vocab;
  const mv_sampling *sampling;
  int32_t *tokens;
};

void choose(void *arg, int row) noexcept {
  const Step &step = *static_cast<const Step *>(arg);
  step.tokens[row] = Row(step.logits + row * step.stride, step.vocab, step.sampling[row]).choose();
}

}  // namespace

extern "C" void mv_sample(float *logits, int64_t stride, int32_t rows, int32_t vocab,
                          const mv_sampling *sampling, int32_t *tokens, mv_run run, void *pool) {
  Step step{logits, stride, vocab, sampling, tokens};
  if (run != nullptr && rows > 1) {
    run(pool, rows, choose, &step);
  } else {
    for (int row = 0; row < rows; ++row) choose(&step, row);
  }
}

#include "pool.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace mv {

namespace {

constexpr int kCountShift = 20;
constexpr int kPhaseShift = 40;
constexpr uint64_t kTaskMask = (1 << 20) - 1;
constexpr uint32_t kPhaseMask = (1 << 24) - 1;
constexpr int kSpins = 2000;  // some tens of microseconds

inline void relax() {
#if defined(__x86_64__)
    _mm_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

/// Wait until `number` is no longer `value`; returns what it is.
///
/// Whoever is to change it may have lost its core to another process. Where we sleep, a core is
/// free, and the kernel has it go on there.
inline int changed(const std::atomic<int>& number, int value) {
    for (int spins = 0; spins < kSpins; ++spins) {
        const int now = number.load(std::memory_order_acquire);
        if (now != value) return now;
        relax();
    }
    number.wait(value, std::memory_order_acquire);
    return number.load(std::memory_order_acquire);
}

}  // namespace

Pool::Pool(int threads) {
    for (int i = 1; i < threads; ++i) helpers_.emplace_back([this, i] { help(i); });
}

Pool::~Pool() {
    ending_ = true;
    announce(0);
    for (auto& helper : helpers_) helper.join();
}

void Pool::begin() {
    working_ = true;
    announce(0);
}

void Pool::end() {
    working_ = false;
    announce(0);
}

void Pool::announce(int count) {
    if (helpers_.empty()) return;
    phase_ = (phase_ + 1) & kPhaseMask;
    turn_.store(uint64_t{phase_} << kPhaseShift | uint64_t(count) << kCountShift,
                std::memory_order_release);
    announced_.fetch_add(1, std::memory_order_release);
    announced_.notify_all();
}

void Pool::submit(int count, Function function, const void* context) {
    function_ = function;
    context_ = context;
    count_ = count;
    done_.store(0, std::memory_order_relaxed);
    announce(count);
    take(phase_, 0);
    for (int done = done_.load(std::memory_order_acquire); done != count;) done = changed(done_, done);
}

void Pool::take(uint32_t phase, int thread) {
    for (;;) {
        uint64_t drawn = turn_.load(std::memory_order_acquire);
        do {
            if (drawn >> kPhaseShift != phase) return;
            if ((drawn & kTaskMask) == (drawn >> kCountShift & kTaskMask)) return;
        } while (!turn_.compare_exchange_weak(drawn, drawn + 1, std::memory_order_acq_rel));
        const int count = count_;
        function_(context_, static_cast<int>(drawn & kTaskMask), thread);
        if (done_.fetch_add(1, std::memory_order_acq_rel) + 1 == count && thread != 0)
            done_.notify_one();
    }
}

void Pool::help(int thread) {
    int seen = 0;
    for (;;) {
        if (!working_) announced_.wait(seen, std::memory_order_acquire);
        seen = changed(announced_, seen);
        if (ending_) return;
        take(static_cast<uint32_t>(turn_.load(std::memory_order_acquire) >> kPhaseShift), thread);
    }
}

}  // namespace mv

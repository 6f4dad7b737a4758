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
constexpr int kSpins = 4000;  // tens of microseconds; then the core may be somebody else's

inline void relax() {
#if defined(__x86_64__)
    _mm_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

/// Wait until `condition` holds, without keeping a core from those who could make it hold.
template <class Condition>
inline void wait_until(const Condition& condition) {
    for (int spins = 0; !condition(); ++spins) {
        if (spins < kSpins) {
            relax();
        } else {
            std::this_thread::yield();
        }
    }
}

}  // namespace

Pool::Pool(int threads) {
    for (int i = 1; i < threads; ++i) helpers_.emplace_back([this, i] { help(i); });
}

Pool::~Pool() {
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        ending_ = true;
    }
    woken_.notify_all();
    for (auto& helper : helpers_) helper.join();
}

void Pool::begin() {
    if (helpers_.empty()) return;
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        working_ = true;
    }
    woken_.notify_all();
}

void Pool::end() { working_ = false; }

void Pool::submit(int count, Function function, const void* context) {
    phase_ = (phase_ + 1) & kPhaseMask;
    function_ = function;
    context_ = context;
    done_.store(0, std::memory_order_relaxed);
    turn_.store(uint64_t{phase_} << kPhaseShift | uint64_t(count) << kCountShift,
                std::memory_order_release);
    take(phase_, 0);
    wait_until([&] { return done_.load(std::memory_order_acquire) == count; });
}

void Pool::take(uint32_t phase, int thread) {
    for (;;) {
        uint64_t drawn = turn_.load(std::memory_order_acquire);
        do {
            if (drawn >> kPhaseShift != phase) return;
            if ((drawn & kTaskMask) == (drawn >> kCountShift & kTaskMask)) return;
        } while (!turn_.compare_exchange_weak(drawn, drawn + 1, std::memory_order_acq_rel));
        function_(context_, static_cast<int>(drawn & kTaskMask), thread);
        done_.fetch_add(1, std::memory_order_release);
    }
}

void Pool::help(int thread) {
    uint32_t seen = 0;
    for (;;) {
        {
            std::unique_lock<std::mutex> lock(mutex_);
            woken_.wait(lock, [&] { return working_ || ending_; });
        }
        if (ending_) return;
        while (working_.load(std::memory_order_relaxed)) {
            uint32_t phase = seen;
            wait_until([&] {
                phase = static_cast<uint32_t>(turn_.load(std::memory_order_acquire) >> kPhaseShift);
                return phase != seen || !working_.load(std::memory_order_relaxed);
            });
            if (phase != seen) take(phase, thread);
            seen = phase;
        }
    }
}

}  // namespace mv

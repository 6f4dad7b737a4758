#include "pool.h"

#include <system_error>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace mv {

namespace {

constexpr int kSpins = 2000;  // some tens of microseconds
constexpr int kSoon = 200;

inline void relax() {
#if defined(__x86_64__)
    _mm_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

/// Wait until `number` is `value`, for a while without sleeping.
///
/// Whoever is to change it may have lost its core to another process. Where we sleep, a core is
/// free, and the kernel has it go on there.
inline void wait_for(const std::atomic<int>& number, int value) {
    for (int spins = 0; spins < kSpins; ++spins) {
        if (number.load(std::memory_order_acquire) == value) return;
        relax();
    }
    for (int now; (now = number.load(std::memory_order_acquire)) != value;)
        number.wait(now, std::memory_order_acquire);
}

}  // namespace

bool Turn::is_done_soon(const Pool::Phase& phase, int count) {
    for (int spins = 0; spins < kSoon; ++spins) {
        if (phase.done.load(std::memory_order_acquire) == count) return true;
        relax();
    }
    return false;
}

void Turn::wait(const Pool::Phase& phase, int count) { wait_for(phase.done, count); }

Pool::Pool(int threads) {
    try {
        for (int i = 1; i < threads; ++i) helpers_.emplace_back([this, i] { help(i); });
    } catch (const std::system_error&) {  // no more are allowed: those that there are do it
    }
}

Pool::~Pool() {
    ending_ = true;
    announced_.fetch_add(1, std::memory_order_release);
    announced_.notify_all();
    for (auto& helper : helpers_) helper.join();
}

void Pool::begin(int phases, int64_t tasks, Function function, const void* context) {
    if (phases > phase_room_) {
        phases_ = std::make_unique<Phase[]>(phases);
        phase_room_ = phases;
    }
    if (tasks > task_room_) {
        settled_ = std::make_unique<std::atomic<bool>[]>(tasks);
        task_room_ = tasks;
    }
    for (int i = 0; i < phases; ++i) {
        phases_[i].next.store(0, std::memory_order_relaxed);
        phases_[i].done.store(0, std::memory_order_relaxed);
    }
    for (int64_t i = 0; i < tasks; ++i) settled_[i].store(false, std::memory_order_relaxed);
    function_ = function;
    context_ = context;
    inside_.store(static_cast<int>(helpers_.size()), std::memory_order_relaxed);
    announced_.fetch_add(1, std::memory_order_release);
    announced_.notify_all();
    Turn turn(*this, 0);
    function(context, turn);
    wait_for(inside_, 0);
}

void Pool::help(int thread) {
    for (uint32_t seen = 0;; ++seen) {
        announced_.wait(seen, std::memory_order_acquire);
        if (ending_) return;
        Turn turn(*this, thread);
        function_(context_, turn);
        if (inside_.fetch_sub(1, std::memory_order_acq_rel) == 1) inside_.notify_one();
    }
}

}  // namespace mv

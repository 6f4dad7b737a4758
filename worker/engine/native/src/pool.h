// Threads that share out the tasks of one phase after the other.

#pragma once

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

namespace mv {

/// Tasks go to whichever thread asks first, so that a thread that the kernel takes off its core
/// holds up what it is computing at that moment and nothing else: these threads share their cores
/// with an API, Redis and clients. Between two calls of `work` they sleep.
class Pool {
   public:
    /// `threads` counts the one that calls `run`.
    explicit Pool(int threads);
    ~Pool();
    Pool(const Pool&) = delete;
    Pool& operator=(const Pool&) = delete;

    int threads() const { return static_cast<int>(helpers_.size()) + 1; }

    /// Wake the others; until `end` they are at hand within less than a microsecond.
    void begin();
    void end();

    /// Call `task(index, thread)` for 0 <= index < `count`, on all threads; returns when all have
    /// returned. Between `begin` and `end`; `count` is less than a million.
    template <class Task>
    void run(int count, const Task& task) {
        if (count == 1 || helpers_.empty()) {
            for (int i = 0; i < count; ++i) task(i, 0);
            return;
        }
        submit(count, [](const void* context, int i, int thread) {
            (*static_cast<const Task*>(context))(i, thread);
        }, &task);
    }

   private:
    using Function = void (*)(const void*, int, int);

    /// Begin the next phase, and wake whoever sleeps.
    void announce(int count);
    void submit(int count, Function function, const void* context);
    void help(int thread);
    /// Compute tasks of phase `phase` until none is left to begin.
    void take(uint32_t phase, int thread);

    std::vector<std::thread> helpers_;
    // In one word the phase (24 bits), how many tasks it has (20) and the next one (20): who draws
    // a task knows of which phase it is, and that this phase can't end before the task has.
    alignas(64) std::atomic<uint64_t> turn_{0};
    alignas(64) std::atomic<int> done_{0};
    alignas(64) std::atomic<int> announced_{0};  // how many phases were; wraps around
    Function function_ = nullptr;
    const void* context_ = nullptr;
    int count_ = 0;
    uint32_t phase_ = 0;
    alignas(64) std::atomic<bool> working_{false};
    std::atomic<bool> ending_{false};
};

}  // namespace mv

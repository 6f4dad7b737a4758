// Threads that go through the phases of one piece of work together.

#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <thread>
#include <vector>

namespace mv {

class Turn;

/// These threads share their cores with an API, Redis and clients. So none leads: each runs the
/// same code, phase by phase, and takes the tasks of a phase as it comes to them. Whichever of
/// them the kernel takes off its core, the others go on, and it finds its way done when it is back.
/// Between two pieces of work they sleep.
class Pool {
   public:
    /// `threads` counts the one that calls `together`.
    explicit Pool(int threads);
    ~Pool();
    Pool(const Pool&) = delete;
    Pool& operator=(const Pool&) = delete;

    int threads() const { return static_cast<int>(helpers_.size()) + 1; }

    /// Call `work(turn)` on all threads; returns when all have returned. It goes through at most
    /// so many phases, which have at most so many tasks between them, the same on each thread.
    template <class Work>
    void together(int phases, int64_t tasks, const Work& work) {
        begin(phases, tasks, [](const void* context, Turn& turn) {
            (*static_cast<const Work*>(context))(turn);
        }, &work);
    }

    /// Call `task(index)` for 0 <= index < `count`, each on one thread.
    template <class Task>
    void run(int count, const Task& task);

   private:
    friend class Turn;
    using Function = void (*)(const void*, Turn&);

    struct alignas(64) Phase {
        std::atomic<int> next;  // task that nobody has begun
        std::atomic<int> done;
    };

    void begin(int phases, int64_t tasks, Function function, const void* context);
    void help(int thread);

    std::vector<std::thread> helpers_;
    std::unique_ptr<Phase[]> phases_;
    std::unique_ptr<std::atomic<bool>[]> settled_;  // for each task: its result is somebody's
    int phase_room_ = 0;
    int64_t task_room_ = 0;
    Function function_ = nullptr;
    const void* context_ = nullptr;
    alignas(64) std::atomic<uint32_t> announced_{0};  // pieces of work; wraps around
    alignas(64) std::atomic<int> inside_{0};     // helpers that have yet to return from it
    std::atomic<bool> ending_{false};
};

/// The right to write a task's result, which several threads may be computing.
class Claim {
   public:
    explicit Claim(std::atomic<bool>& settled) : settled_(settled) {}

    /// Somebody else has it: there is no use in going on.
    bool lost() const { return settled_.load(std::memory_order_relaxed); }

    /// Whether the result may be written: now, and nowhere else.
    bool take() { return taken_ = !settled_.exchange(true, std::memory_order_acq_rel); }

    bool taken() const { return taken_; }

   private:
    std::atomic<bool>& settled_;
    bool taken_ = false;
};

/// One thread's way through the phases.
class Turn {
   public:
    Turn(Pool& pool, int thread) : pool_(pool), thread_(thread) {}

    int thread() const { return thread_; }

    /// Call `task(index)` for 0 <= index < `count`, each on one thread; returns when all of them
    /// have returned.
    template <class Task>
    void share(int count, const Task& task) {
        Pool::Phase& phase = next(count);
        for (int i; (i = drawn(phase)) < count;) {
            task(i);
            finished(phase, count);
        }
        wait(phase, count);
    }

    /// The same for `task(index, claim)` that writes nothing that others see before it has taken
    /// the claim. What a thread holds that has lost its core is computed by another one.
    ///
    /// Who comes too late may read what is being overwritten, and must make no index of it.
    template <class Task>
    void race(int count, const Task& task) {
        const int64_t first = tasks_;
        Pool::Phase& phase = next(count);
        const auto attempt = [&](int i) {
            Claim claim(pool_.settled_[first + i]);
            if (claim.lost()) return;
            task(i, claim);
            if (claim.taken()) finished(phase, count);
        };
        for (int i; (i = drawn(phase)) < count;) attempt(i);
        if (is_done_soon(phase, count)) return;
        for (int i = 0; i < count; ++i) attempt(i);
        wait(phase, count);
    }

   private:
    Pool::Phase& next(int count) {
        tasks_ += count;
        return pool_.phases_[phases_++];
    }
    static int drawn(Pool::Phase& phase) { return phase.next.fetch_add(1, std::memory_order_relaxed); }
    static void finished(Pool::Phase& phase, int count) {
        if (phase.done.fetch_add(1, std::memory_order_acq_rel) + 1 == count) phase.done.notify_all();
    }
    /// Whether all tasks are done within the time that one of them takes.
    static bool is_done_soon(const Pool::Phase& phase, int count);
    static void wait(const Pool::Phase& phase, int count);

    Pool& pool_;
    const int thread_;
    int phases_ = 0;
    int64_t tasks_ = 0;
};

template <class Task>
void Pool::run(int count, const Task& task) {
    if (count == 1 || helpers_.empty()) {
        for (int i = 0; i < count; ++i) task(i);
        return;
    }
    together(1, count, [&](Turn& turn) { turn.share(count, task); });
}

}  // namespace mv

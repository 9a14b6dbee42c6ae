// Stacks of threads: programs for deep recursion ask for 512 MiB and more, of which they use
// little. The limit of memory is one of addresses, so a stack gets at most half of it; a program
// that used more would reach the limit all the same.
#pragma once

#include <cstdint>

namespace stepcoder::thread_stacks {

// In the worker: replaces threading.stack_size(). False: a Python error is set.
bool prepare();

// In a child: what a stack may take, in bytes.
void limit(uint64_t bytes);

}  // namespace stepcoder::thread_stacks

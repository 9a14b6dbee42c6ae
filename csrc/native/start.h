// Starts machine code (a C or C++ program, or its compiler) from a child of the worker.
//
// The child is the init of its pid namespace and stays: it is trusted, since the program is a
// process of its own, which shares no memory with it. So the program gets its own signals (an init
// does not), and the child can say how it ended.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "wire/fd.h"
#include "worker/isolation.h"

namespace stepcoder::native {

// For the worker: installs the filter of its children. The descriptor from which violations are
// read, or none where the machine gives none; the kernel then kills the program without a name.
UniqueFd install_filter_of(Guest guest);

// Runs one process in this child and waits for its end, which it notes on the board. The program's
// binary is kBinaryFd; its stdin and stdout are `channel` if that is a descriptor. The compiler is
// argv[0], whose stdout goes to stderr. Returns the wait status. Throws std::system_error if the
// machine does not start it.
int run(Guest guest, const std::vector<std::string>& argv,
        const std::vector<std::string>& environment, int channel);

}  // namespace stepcoder::native

// The seccomp filter of a worker: written as a list of rules, installed as a search tree.
#pragma once

#include <linux/filter.h>

#include <cstdint>
#include <vector>

#include "worker/isolation.h"

namespace stepcoder {

// Builds the filter. With `own_pid_namespace` signals reach only the run's own processes, so kill
// is allowed. With `read_only_files`, where no mount namespace hides the machine's files, every
// open for writing and every change of a path fails.
std::vector<sock_filter> build_filter(bool own_pid_namespace, bool read_only_files);

// The filter for machine code or for the compiler. A call that carries `secret` is the trusted
// child's own: it starts the program with such calls, and the program does not know the number. A
// violation waits for its reader (`listened`), or ends the program.
std::vector<sock_filter> build_native_filter(Guest guest, uint64_t secret, bool listened);

// Installs it for this thread and its children, for good. Throws std::system_error.
void install_filter(const std::vector<sock_filter>& filter);

// Does so and returns the descriptor from which violations are read, -1 if the machine refuses it
// (Linux before 5.0, a container that reads violations itself), when nothing is installed.
int install_listened_filter(const std::vector<sock_filter>& filter);

// Installs the handler that writes the offending call to `violation` and ends the process.
void report_violations_to(int* violation);

}  // namespace stepcoder

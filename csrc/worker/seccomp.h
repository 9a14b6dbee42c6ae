// The seccomp filter of a worker: written as a list of rules, installed as a search tree.
#pragma once

#include <linux/filter.h>

#include <vector>

namespace stepcoder {

// Builds the filter. With `own_pid_namespace` signals reach only the run's own processes, so kill
// is allowed. With `read_only_files`, where no mount namespace hides the machine's files, every
// open for writing and every change of a path fails.
std::vector<sock_filter> build_filter(bool own_pid_namespace, bool read_only_files);

// Installs it for this thread and its children, for good. Throws std::system_error.
void install_filter(const std::vector<sock_filter>& filter);

// Installs the handler that writes the offending call to `violation` and ends the process.
void report_violations_to(int* violation);

}  // namespace stepcoder

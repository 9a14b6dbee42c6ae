// Landlock: which files a process may open, where no mount namespace can hide the others.
#pragma once

#include <string>
#include <vector>

namespace stepcoder {

// From here on this process and its children can read `readable` and nothing else by path, write
// nothing, and look into no process outside. False where the kernel has no Landlock.
bool allow_reading_only(const std::vector<std::string>& readable,
                        const std::vector<std::string>& hidden);

}  // namespace stepcoder

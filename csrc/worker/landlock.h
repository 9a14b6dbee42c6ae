// Landlock: which files a process may open. A second wall where a mount namespace hides the others,
// the only one where it cannot.
#pragma once

#include <string>
#include <vector>

namespace stepcoder {

// From here on this process and its children can read `readable` without `hidden`, and nothing else
// by path, write nothing but below `scratch` ("": nothing at all), and look into no process
// outside. False where the kernel has no Landlock; with a scratch folder, none from before
// Linux 5.19.
bool allow_files(const std::vector<std::string>& readable, const std::vector<std::string>& hidden,
                 const std::string& scratch);

}  // namespace stepcoder

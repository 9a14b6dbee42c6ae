// Landlock: which files a process may open. A second layer behind a mount namespace, and the only
// one where the machine refuses mounts.
#pragma once

#include <string>
#include <vector>

namespace stepcoder {

// From here on this process and its children can read `readable` without `hidden` and write below
// `scratch` ("": nowhere). They open nothing else by path and cannot look into other processes.
// False if the kernel has no Landlock; with a scratch folder, if it is older than Linux 5.19.
bool allow_files(const std::vector<std::string>& readable, const std::vector<std::string>& hidden,
                 const std::string& scratch, bool executable);

}  // namespace stepcoder

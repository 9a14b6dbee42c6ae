// Puts the worker process, once, behind every wall that the machine permits.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace stepcoder {

struct IsolationConfig {
  std::vector<std::string> readable;  // folders and files that programs may read, as they are named
  std::vector<std::string> hidden;    // files and folders within those that they may not
  std::string scratch;                // where a run may write; its working folder
  uint64_t scratch_bytes = 0;
  uint32_t own_uid = 0;  // the user to become where the judge runs as root
};

struct Isolation {
  uint32_t missing_layers = 0;  // bit set of Layer
  bool has(uint32_t layer) const { return (missing_layers & layer) == 0; }
};

// Throws std::system_error only where a wall stands half: a wall that cannot be had is reported.
Isolation isolate(const IsolationConfig& config);

// In a child of the worker: gives up the capabilities that its user namespace gave it, or that it
// has where it could not stop being root.
void drop_capabilities();

}  // namespace stepcoder

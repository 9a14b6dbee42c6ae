// Control groups: a worker and its runs in a group of their own, whose memory and number of tasks
// the kernel limits together. It counts what RLIMIT_AS does not: scratch files, page tables, kernel
// memory and the memory files of a run.
//
// A second layer behind the resource limits, on machines that let the judge make groups. Only the
// judge handles it; a worker does not know of its group.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <utility>

namespace stepcoder {

// The folders in which this process may make groups.
struct CgroupParent {
  int version = 0;      // of the kernel's interface; 0 if no groups can be made
  std::string memory;   // a folder of the hierarchy with the memory controller
  std::string pids;     // of the one with the pids controller: the same in version 2, "" if none
  std::string missing;  // why there is none
};

// Takes the text of /proc/self/cgroup and /proc/self/mountinfo. Never moves this process, and never
// chooses a place outside the limits that it is under.
CgroupParent find_cgroup_parent(const std::string& cgroups, const std::string& mounts);
CgroupParent find_cgroup_parent();

// Removes the groups of judges that were killed before they could. Returns their number.
int remove_leftovers(const CgroupParent& parent);

class Cgroup {
 public:
  Cgroup() = default;  // no group: its methods do nothing
  // Makes the group; none if the machine refuses.
  explicit Cgroup(const CgroupParent& parent);
  Cgroup(Cgroup&& other) noexcept { *this = std::move(other); }
  Cgroup& operator=(Cgroup&& other) noexcept;
  // The processes must have ended.
  ~Cgroup() { remove(); }

  // Its folder in the memory hierarchy, "" if there is no group.
  const std::string& folder() const { return memory_; }

  // Moves a process into the group, with all that it starts from now on, and limits their number.
  // False if refused; the group is then removed.
  bool add(pid_t pid);

  // Lets the group use `bytes` beside what the worker itself uses. The first call, with the worker
  // ready and before its first run, measures that. Writes nothing if the limit stays the same.
  void allow_memory(uint64_t bytes);

  // True if the kernel has ended a process of the group for its memory since the last call.
  bool ran_out_of_memory();

 private:
  void remove();

  int version_ = 0;
  pid_t owner_ = 0;  // a fork of the judge owns no group
  std::string memory_;
  std::string pids_;
  uint64_t own_bytes_ = 0;
  uint64_t limit_bytes_ = 0;
  uint64_t kills_ = 0;
};

}  // namespace stepcoder

// See isolation.h. The order of the steps is the point of this file: read isolate() as a checklist.
#include "worker/isolation.h"

#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <exception>
#include <filesystem>
#include <utility>

#include "wire/fd.h"
#include "wire/protocol.h"
#include "worker/landlock.h"

namespace stepcoder {
namespace {

namespace fs = std::filesystem;

constexpr uint32_t kInnerId = 1000;
constexpr const char* kStage =
    "/tmp";  // exists everywhere; only this mount namespace sees it covered

bool write_file(const char* path, const std::string& text) {
  UniqueFd file(open(path, O_WRONLY | O_CLOEXEC));
  return file && write(file.get(), text.data(), text.size()) == static_cast<ssize_t>(text.size());
}

// A user namespace in which one id stands for the caller's own.
bool enter_user_namespace(int more_namespaces) {
  // The maps of a process that has changed its user belong to root, until it says otherwise.
  prctl(PR_SET_DUMPABLE, 1, 0, 0, 0);
  const std::string uid = std::to_string(geteuid());
  const std::string gid = std::to_string(getegid());
  const std::string inner = std::to_string(kInnerId);
  if (unshare(CLONE_NEWUSER | more_namespaces) != 0) return false;
  return write_file("/proc/self/setgroups", "deny") &&
         write_file("/proc/self/uid_map", inner + " " + uid + " 1") &&
         write_file("/proc/self/gid_map", inner + " " + gid + " 1");
}

// Mount flags that a less privileged namespace must keep.
unsigned long locked_flags(const std::string& path) {
  struct statvfs info{};
  if (statvfs(path.c_str(), &info) != 0) return 0;
  unsigned long flags = 0;
  if ((info.f_flag & ST_NOSUID) != 0) flags |= MS_NOSUID;
  if ((info.f_flag & ST_NODEV) != 0) flags |= MS_NODEV;
  if ((info.f_flag & ST_NOEXEC) != 0) flags |= MS_NOEXEC;
  if ((info.f_flag & ST_NOATIME) != 0) flags |= MS_NOATIME;
  if ((info.f_flag & ST_NODIRATIME) != 0) flags |= MS_NODIRATIME;
  if ((info.f_flag & ST_RELATIME) != 0) flags |= MS_RELATIME;
  return flags;
}

void show_read_only(const std::string& path, const std::string& root) {
  if (fs::is_symlink(path)) {  // /lib -> usr/lib
    fs::create_directories(root + fs::path(path).parent_path().string());
    fs::create_symlink(fs::read_symlink(path), root + path);
    return;
  }
  const std::string target = root + path;
  if (fs::is_directory(path)) {
    fs::create_directories(target);
  } else {
    fs::create_directories(fs::path(target).parent_path());
    UniqueFd file(open(target.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0444));
  }
  checked(mount(path.c_str(), target.c_str(), nullptr, MS_BIND | MS_REC, nullptr), "bind mount");
  checked(mount(nullptr, target.c_str(), nullptr,
                MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOSUID | locked_flags(target), nullptr),
          "read-only remount");
}

void hide(const std::string& target) {
  if (fs::is_directory(target))
    checked(mount("tmpfs", target.c_str(), "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC,
                  "size=64k,nr_inodes=64,mode=755"),
            "hide a folder");
  else
    checked(mount("/dev/null", target.c_str(), nullptr, MS_BIND, nullptr), "hide a file");
}

// A root that holds the interpreter, read-only, and an empty scratch folder; nothing else.
void change_root(const IsolationConfig& config) {
  const std::string root = kStage;
  // Nothing that is mounted from here on may reach the machine's own mount table.
  checked(mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr), "make mounts private");
  checked(
      mount("tmpfs", root.c_str(), "tmpfs", MS_NOSUID | MS_NODEV, "size=1m,nr_inodes=4k,mode=755"),
      "mount the new root");
  // Parents before what lies in them: numpy is shown in a folder of packages that is hidden.
  std::vector<std::pair<std::string, bool>> paths;
  for (const std::string& path : config.readable) paths.emplace_back(path, true);
  for (const std::string& path : config.hidden) paths.emplace_back(path, false);
  std::stable_sort(paths.begin(), paths.end(), [](const auto& left, const auto& right) {
    return left.first.size() < right.first.size();
  });
  for (const auto& [path, shown] : paths) {
    if (shown && fs::exists(path)) show_read_only(path, root);
    if (!shown && fs::exists(root + path)) hide(root + path);
  }
  for (const std::string& path : config.hidden)
    if (fs::is_directory(root + path))
      checked(mount(nullptr, (root + path).c_str(), nullptr,
                    MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, nullptr),
              "make a hidden folder read-only");
  const std::string scratch = root + config.scratch;
  fs::create_directories(scratch);
  const std::string options =
      "size=" + std::to_string(config.scratch_bytes) + ",nr_inodes=256,mode=777";
  checked(
      mount("tmpfs", scratch.c_str(), "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, options.c_str()),
      "mount the scratch folder");
  checked(chdir(root.c_str()), "enter the new root");
  checked(syscall(SYS_pivot_root, ".", "."), "pivot_root");
  checked(umount2(".", MNT_DETACH), "let go of the old root");
  checked(mount(nullptr, "/", nullptr, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV,
                nullptr),
          "make the new root read-only");
  checked(chdir(config.scratch.c_str()), "enter the scratch folder");
}

// Gives up root for good. False if this root may not (a container without the capability).
bool become(uint32_t uid) {
  for (int capability = 0; capability < 64; ++capability)
    if (prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) != 0) break;
  if (setgroups(0, nullptr) != 0) return false;
  return setresgid(uid, uid, uid) == 0 && setresuid(uid, uid, uid) == 0;
}

// True if any user can read the path: another uid would otherwise lose the standard library.
bool readable_by_all(const std::string& path) {
  std::error_code error;
  const auto others_may = [&](const fs::path& part, fs::perms what) {
    return (fs::status(part, error).permissions() & what) == what && !error;
  };
  if (!fs::exists(path, error)) return true;
  const bool folder = fs::is_directory(path, error);
  if (!others_may(path, fs::perms::others_read | (folder ? fs::perms::others_exec : fs::perms{})))
    return false;
  for (fs::path part = fs::path(path).parent_path(); part != part.root_path();
       part = part.parent_path())
    if (!others_may(part, fs::perms::others_exec)) return false;
  return true;
}

// Takes steps that may fail halfway: only where they all succeed in a process that tries them
// first. Containers and AppArmor allow namespaces and then refuse the mounts in them.
template <typename Steps>
bool all_or_nothing(Steps steps) {
  const pid_t child = fork();
  if (child < 0) return false;
  if (child == 0) {
    bool done = false;
    try {
      done = steps();
    } catch (const std::exception&) {
      done = false;
    }
    _exit(done ? 0 : 1);
  }
  int status = 0;
  waitpid(child, &status, 0);
  return status == 0 && steps();
}

// A pid namespace needs a capability that only some machines give: try one.
bool can_make_pid_namespace() {
  long child = syscall(SYS_clone, CLONE_NEWPID | SIGCHLD, 0, 0, 0, 0);
  if (child < 0) return false;
  if (child == 0) _exit(0);
  waitpid(static_cast<pid_t>(child), nullptr, 0);
  return true;
}

void set_limit(__rlimit_resource_t resource, rlim_t value) {
  rlimit limit{};
  getrlimit(resource, &limit);
  value = std::min(value, limit.rlim_max);
  limit = {value, value};
  checked(setrlimit(resource, &limit), "setrlimit");
}

}  // namespace

Isolation isolate(const IsolationConfig& config) {
  constexpr int kOtherSpaces = CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS;
  Isolation result;
  bool mounts = false;
  bool network = false;
  bool users = false;
  if (geteuid() == 0) {
    // As root: the namespaces first, then an unprivileged user, who then gets a user namespace of
    // its own, which is what pid namespaces for the runs need. Mounts stay out of its reach.
    mounts = all_or_nothing([&] {
      if (unshare(CLONE_NEWNS | kOtherSpaces) != 0) return false;
      change_root(config);
      return true;
    });
    network = mounts || unshare(kOtherSpaces) == 0;
    bool can_read = mounts;
    if (!mounts)
      can_read = std::all_of(config.readable.begin(), config.readable.end(), readable_by_all);
    if (!can_read || !become(config.own_uid)) result.missing_layers |= kOwnUid;
    users = mounts && unshare(CLONE_NEWUSER) == 0;
  }
  // As an ordinary user, or as a root who may not mount: with what a user namespace gives.
  if (!mounts) {
    mounts = all_or_nothing([&] {
      if (!enter_user_namespace(CLONE_NEWNS | kOtherSpaces)) return false;
      change_root(config);
      return true;
    });
    users = mounts || all_or_nothing([] { return enter_user_namespace(0); });
    network = network || mounts || unshare(kOtherSpaces) == 0;
  }
  if (!users) result.missing_layers |= kUserNamespace;
  if (!mounts) result.missing_layers |= kMountNamespace;
  if (!network) result.missing_layers |= kNetworkNamespace;
  // Where the machine's files are in sight, at least none of them can be opened. In a root of its
  // own what is hidden is not there, or covered. Landlock also keeps the memory of other processes
  // of this user out of reach.
  const bool files = mounts ? allow_files(config.readable, {}, config.scratch)
                            : allow_files(config.readable, config.hidden, "");
  if (!mounts && !files) result.missing_layers |= kReadableFiles;
  if (!can_make_pid_namespace()) result.missing_layers |= kPidNamespace;

  // Nobody with the same user id may read or trace this process or its children.
  checked(prctl(PR_SET_DUMPABLE, 0, 0, 0, 0), "not dumpable");
  // Limits that are the same for every run; the hard limit too, so that none can be raised.
  set_limit(RLIMIT_CORE, 0);
  set_limit(RLIMIT_MEMLOCK, 0);
  set_limit(RLIMIT_MSGQUEUE, 0);
  set_limit(RLIMIT_NOFILE, 64);
  set_limit(RLIMIT_STACK, rlim_t{64} << 20);
  // Counted in the user namespace, so for this worker alone; without one, for all of the user's.
  if (users) set_limit(RLIMIT_NPROC, kMaxTasks);
  return result;
}

void drop_capabilities() {
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct none[2]{};
  checked(syscall(SYS_capset, &header, none), "drop capabilities");
}

}  // namespace stepcoder

// See control.h.
#include "wire/control.h"

#include <sys/socket.h>

#include <array>
#include <cstring>

namespace stepcoder {

bool send_control(int socket, const ControlMessage& message, int channel, int tester_board) {
  const std::array<int, 2> descriptors{channel, tester_board};
  const size_t bytes = sizeof(int) * (tester_board >= 0 ? 2 : 1);
  iovec part{const_cast<ControlMessage*>(&message), sizeof message};
  alignas(cmsghdr) char ancillary[CMSG_SPACE(sizeof descriptors)]{};
  msghdr packet{};
  packet.msg_iov = &part;
  packet.msg_iovlen = 1;
  if (channel >= 0) {
    packet.msg_control = ancillary;
    packet.msg_controllen = CMSG_SPACE(bytes);
    cmsghdr* rights = CMSG_FIRSTHDR(&packet);
    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = CMSG_LEN(bytes);
    std::memcpy(CMSG_DATA(rights), descriptors.data(), bytes);
  }
  return sendmsg(socket, &packet, MSG_NOSIGNAL) == sizeof message;
}

std::optional<Received> receive_control(int socket) {
  Received received;
  iovec part{&received.message, sizeof received.message};
  alignas(cmsghdr) char ancillary[CMSG_SPACE(2 * sizeof(int))];
  msghdr packet{};
  packet.msg_iov = &part;
  packet.msg_iovlen = 1;
  packet.msg_control = ancillary;
  packet.msg_controllen = sizeof ancillary;
  const ssize_t got = recvmsg(socket, &packet, MSG_CMSG_CLOEXEC);
  if (got != static_cast<ssize_t>(sizeof received.message)) return std::nullopt;
  for (cmsghdr* header = CMSG_FIRSTHDR(&packet); header != nullptr;
       header = CMSG_NXTHDR(&packet, header))
    if (header->cmsg_type == SCM_RIGHTS) {
      const int* descriptors = reinterpret_cast<int*>(CMSG_DATA(header));
      received.channel = UniqueFd(descriptors[0]);
      if (header->cmsg_len > CMSG_LEN(sizeof(int)))
        received.tester_board = UniqueFd(descriptors[1]);
    }
  return received;
}

}  // namespace stepcoder

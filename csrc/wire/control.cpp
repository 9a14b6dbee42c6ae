// See control.h.
#include "wire/control.h"

#include <sys/socket.h>

#include <array>
#include <cstring>

namespace stepcoder {

bool send_control(int socket, ControlMessage message, int channel, int tester_board, int binary) {
  std::array<int, 3> sent{};
  size_t count = 0;
  message.sent = 0;
  for (const auto& [fd, bit] : {std::pair{channel, kSentChannel},
                                {tester_board, kSentTesterBoard},
                                {binary, kSentBinary}}) {
    if (fd < 0) continue;
    message.sent |= bit;
    sent[count++] = fd;
  }
  const size_t bytes = sizeof(int) * count;
  iovec part{&message, sizeof message};
  alignas(cmsghdr) char ancillary[CMSG_SPACE(sizeof sent)]{};
  msghdr packet{};
  packet.msg_iov = &part;
  packet.msg_iovlen = 1;
  if (count > 0) {
    packet.msg_control = ancillary;
    packet.msg_controllen = CMSG_SPACE(bytes);
    cmsghdr* rights = CMSG_FIRSTHDR(&packet);
    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = CMSG_LEN(bytes);
    std::memcpy(CMSG_DATA(rights), sent.data(), bytes);
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
      const int* fd = reinterpret_cast<int*>(CMSG_DATA(header));
      const uint32_t sent = received.message.sent;
      if ((sent & kSentChannel) != 0) received.channel = UniqueFd(*fd++);
      if ((sent & kSentTesterBoard) != 0) received.tester_board = UniqueFd(*fd++);
      if ((sent & kSentBinary) != 0) received.binary = UniqueFd(*fd);
    }
  return received;
}

}  // namespace stepcoder

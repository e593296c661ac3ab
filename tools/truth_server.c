/* The truth server: an OpenAI-compatible server that says nothing worth reading, at times that are known.
 *
 * A load generator is measured against it: every answer's first token leaves --ttft-ms after the request's last byte
 * arrived, the others follow every --itl-ms, and the server's own log says when each really left. With --flood it sends
 * as fast as the client reads, which measures what a token costs the client. tools/truth.py compiles it, starts it and
 * reads its log; tools/bench_truth.py is the measurement.
 *
 * One thread and one epoll set. Nothing is allocated or formatted for a token: the events of all words stand ready in
 * one block, and a write() points into it. An answer is a stream of bytes, [head][events ...][tail], of which `pos`
 * have left and `limit` may leave; pacing is nothing but moving `limit`. The head (with, for chat, the event that has a
 * role and no text) leaves at once, as servers do: a client that takes it for the first token is found out.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { WORDS = 128, ID_DIGITS = 8, HEAD = 1024, TAIL = 2048, BATCH = 256, SEGMENTS = 32, MOST_INPUT = 64 << 20 };
enum { KERNEL_STAMP = 1, CUT = 2, BLOCKED = 4 }; /* flags of a record */
enum { NEVER = -1 };

static const char *const words[] = {" the", " model", " of", " a", " throughput", " is", ",", " measured", " in", ".",
                                    " tokens", "\\n", " per", " second", " and", " latency"};

/* What the log says of a request; `stamps` times of 8 bytes follow it. All times: nanoseconds since 1970. */
struct record {
    int64_t number, asked_id, arrival, finished;
    int32_t tokens, sent, stamps, connection, flags, bytes;
};

struct log_header {
    char magic[8];
    int64_t ttft, itl;
    int32_t flood, record_size;
};

/* The events of one API: all words' chunks, one after the other; event i of an answer is event i % WORDS of them. */
struct events {
    const char *id_prefix, *object;
    char *block;
    size_t start[WORDS + 1]; /* where each event begins; the last entry is the block's size */
    size_t id[WORDS];        /* where its request id is written */
};

struct conn {
    int fd, slot; /* slot: its place in the heap, or NEVER */
    bool busy, close_after;
    char *in;
    size_t have, room;
    struct events *events;
    char head[HEAD], tail[TAIL], name[ID_DIGITS + 1];
    size_t head_size, tail_size, pos, limit, end;
    int64_t due, first, last, *stamps;
    int stamps_room;
    struct record record;
};

static struct {
    int64_t ttft, itl;
    int tokens, cpu, port;
    bool flood;
    const char *log;
} options = {.ttft = 50000000, .itl = 10000000, .tokens = 100, .cpu = NEVER};

static struct events completions = {.id_prefix = "cmpl-", .object = "text_completion"};
static struct events chat = {.id_prefix = "chatcmpl-", .object = "chat.completion.chunk"};
static int set, connections, in_flight;
static int64_t requests, created; /* created: seconds, of the server's start */
static char date[64];
static FILE *log_file;
static struct conn **heap; /* answers that wait for their next token's time, the earliest first */
static int heap_size, heap_room;
static volatile sig_atomic_t stopped;

static void stop(int signal) {
    (void)signal;
    stopped = 1;
}

static void fail(const char *what) {
    fprintf(stderr, "truth_server: %s: %s\n", what, strerror(errno));
    exit(2);
}

static void *more(void *old, size_t size) {
    void *new = realloc(old, size);
    if (!new) fail("no memory");
    return new;
}

/* The wall clock, since the kernel's receive stamps are of it and the client's and this log must be comparable. */
static int64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return t.tv_sec * INT64_C(1000000000) + t.tv_nsec;
}

/* ---- what is sent ---- */

/* One event in an HTTP chunk of its own, as uvicorn writes what trtllm-serve yields. Returns its size. */
static size_t chunk(char *out, size_t room, const char *event) {
    int size = snprintf(out, room, "%zx\r\n%s\r\n", strlen(event), event);
    if (size < 0 || (size_t)size >= room) fail("an event is larger than its room");
    return (size_t)size;
}

/* One event of the stream, as trtllm-serve writes it. `finish` is JSON; `role` is a whole field or nothing. */
static void event_text(char *out, size_t room, const struct events *api, const char *name, const char *text,
                       const char *role, const char *finish) {
    int n = snprintf(out, room, "data: {\"id\":\"%s%s\",\"object\":\"%s\",\"created\":%lld,\"model\":\"truth\",",
                     api->id_prefix, name, api->object, (long long)created);
    if (api == &chat)
        snprintf(out + n, room - (size_t)n,
                 "\"choices\":[{\"index\":0,\"delta\":{%s\"content\":\"%s\"},\"logprobs\":null,"
                 "\"finish_reason\":%s,\"stop_reason\":null}]}\n\n", role, text, finish);
    else
        snprintf(out + n, room - (size_t)n,
                 "\"choices\":[{\"index\":0,\"text\":\"%s\",\"token_ids\":null,\"logprobs\":null,"
                 "\"context_logits\":null,\"finish_reason\":%s,\"stop_reason\":null,"
                 "\"disaggregated_params\":null}]}\n\n", text, finish);
}

static void prepare(struct events *api) {
    char event[512];
    size_t size = 0;
    api->block = more(NULL, WORDS * sizeof event);
    for (int i = 0; i < WORDS; i++) {
        api->start[i] = size;
        event_text(event, sizeof event, api, "00000000", words[i % (int)(sizeof words / sizeof *words)], "", "null");
        size += chunk(api->block + size, sizeof event, event);
        char *id = strstr(api->block + api->start[i], api->id_prefix);
        api->id[i] = (size_t)(id - api->block) + strlen(api->id_prefix);
    }
    api->start[WORDS] = size;
}

/* Where event `i` begins, counted from the first event's begin. */
static size_t offset(const struct events *api, int i) {
    return (size_t)(i / WORDS) * api->start[WORDS] + api->start[i % WORDS];
}

static void prepare_head(struct conn *c) {
    char event[512];
    c->head_size = (size_t)snprintf(c->head, HEAD,
                                    "HTTP/1.1 200 OK\r\ndate: %s\r\nserver: truth\r\ncontent-type: text/event-stream; "
                                    "charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n", date);
    if (c->events != &chat) return;
    event_text(event, sizeof event, c->events, c->name, "", "\"role\":\"assistant\",", "null");
    c->head_size += chunk(c->head + c->head_size, HEAD - c->head_size, event);
}

static void prepare_tail(struct conn *c, bool usage, int prompt) {
    char event[512];
    int tokens = c->record.tokens;
    event_text(event, sizeof event, c->events, c->name, "", "", "\"length\"");
    c->tail_size = chunk(c->tail, TAIL, event);
    if (usage) {
        snprintf(event, sizeof event,
                 "data: {\"id\":\"%s%s\",\"object\":\"%s\",\"created\":%lld,\"model\":\"truth\",\"choices\":[],"
                 "\"usage\":{\"prompt_tokens\":%d,\"total_tokens\":%d,\"completion_tokens\":%d}}\n\n",
                 c->events->id_prefix, c->name, c->events->object, (long long)created, prompt, prompt + tokens, tokens);
        c->tail_size += chunk(c->tail + c->tail_size, TAIL - c->tail_size, event);
    }
    c->tail_size += chunk(c->tail + c->tail_size, TAIL - c->tail_size, "data: [DONE]\n\n");
    c->tail_size += (size_t)snprintf(c->tail + c->tail_size, TAIL - c->tail_size, "0\r\n\r\n");
}

/* ---- the heap of due times ---- */

static void place(int slot, struct conn *c) {
    heap[slot] = c;
    c->slot = slot;
}

static void rise(int slot, struct conn *c) {
    for (; slot && heap[(slot - 1) / 2]->due > c->due; slot = (slot - 1) / 2) place(slot, heap[(slot - 1) / 2]);
    place(slot, c);
}

static void sink(int slot, struct conn *c) {
    for (int child; (child = 2 * slot + 1) < heap_size; slot = child) {
        if (child + 1 < heap_size && heap[child + 1]->due < heap[child]->due) child++;
        if (heap[child]->due >= c->due) break;
        place(slot, heap[child]);
    }
    place(slot, c);
}

static void heap_remove(struct conn *c) {
    int slot = c->slot;
    if (slot == NEVER) return;
    c->slot = NEVER;
    struct conn *last = heap[--heap_size];
    if (last == c) return;
    sink(slot, last);
    rise(last->slot, last);
}

/* ---- an answer ---- */

static void log_answer(struct conn *c) {
    if (!log_file) return;
    int64_t ends[2] = {c->first, c->last};
    c->record.stamps = options.flood ? 2 * (c->record.sent > 0) : c->record.sent;
    fwrite(&c->record, sizeof c->record, 1, log_file);
    fwrite(options.flood ? ends : c->stamps, sizeof *ends, (size_t)c->record.stamps, log_file);
}

static void finish(struct conn *c) {
    c->record.finished = now();
    log_answer(c);
    heap_remove(c);
    c->busy = false;
    in_flight--;
    if (!in_flight && log_file) fflush(log_file); /* whoever has its last answer may read the log */
}

static void drop(struct conn *c) {
    if (c->busy) {
        c->record.flags |= CUT;
        finish(c);
    }
    close(c->fd);
    free(c->in);
    free(c->stamps);
    free(c);
}

/* Write this request's id over another's, in the events from `first` to the one that begins before `to` (counted from
 * the first event's begin). All answers share the block: nothing of it is in use after a write() returned. */
static void put_name(struct conn *c, int first, size_t to) {
    struct events *api = c->events;
    for (int i = first; i < first + WORDS && i < c->record.tokens && offset(api, i) < to; i++)
        memcpy(api->block + api->id[i % WORDS], c->name, ID_DIGITS);
}

/* The pieces of memory that hold the bytes from `pos` to `limit`, as many as fit. */
static int pieces(struct conn *c, struct iovec *out) {
    size_t pos = c->pos, size = c->events->start[WORDS], tail = c->end - c->tail_size;
    int n = 0;
    while (pos < c->limit && n < SEGMENTS) {
        char *from;
        size_t left;
        if (pos < c->head_size) {
            from = c->head + pos;
            left = c->head_size - pos;
        } else if (pos < tail) {
            from = c->events->block + (pos - c->head_size) % size;
            left = size - (pos - c->head_size) % size;
            if (left > tail - pos) left = tail - pos;
        } else {
            from = c->tail + (pos - tail);
            left = c->end - pos;
        }
        if (left > c->limit - pos) left = c->limit - pos;
        out[n++] = (struct iovec){from, left};
        pos += left;
    }
    return n;
}

/* Which events have begun to leave, now that `pos` bytes have: they left with the write() before which it was `t`. */
static void stamp(struct conn *c, int64_t t) {
    while (c->record.sent < c->record.tokens && c->head_size + offset(c->events, c->record.sent) < c->pos) {
        int i = c->record.sent++;
        if (i == 0) c->first = t;
        c->last = t;
        if (!options.flood) {
            c->stamps[i] = t;
        } else { /* only the first and the last are kept: find the last in one step */
            size_t body = c->pos - c->head_size, all = c->end - c->tail_size - c->head_size;
            if (body >= all) c->record.sent = c->record.tokens;
            else if (body / c->events->start[WORDS] > (size_t)(i / WORDS))
                c->record.sent = (int)(body / c->events->start[WORDS]) * WORDS;
        }
    }
}

/* Send what may leave. False if the client is gone. */
static bool push(struct conn *c) {
    while (c->pos < c->limit) {
        struct iovec part[SEGMENTS];
        struct msghdr message = {.msg_iov = part};
        message.msg_iovlen = (size_t)pieces(c, part);
        if (c->limit > c->head_size) {
            int first = c->record.sent ? c->record.sent - 1 : 0; /* it may have left in part */
            put_name(c, first, c->limit - c->head_size);
        }
        int64_t t = now();
        /* send() is a little cheaper, and a token is one piece. */
        ssize_t sent = message.msg_iovlen == 1 ? send(c->fd, part->iov_base, part->iov_len, MSG_NOSIGNAL | MSG_DONTWAIT)
                                               : sendmsg(c->fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent < 0) {
            if (errno == EINTR) continue;
            if (errno != EAGAIN) return false;
            c->record.flags |= BLOCKED;
            return true;
        }
        c->pos += (size_t)sent;
        if (c->pos > c->head_size) stamp(c, t);
    }
    return true;
}

/* The next token of an answer is due. */
static bool next_token(struct conn *c) {
    int i = (int)((c->due - c->record.arrival - options.ttft) / (options.itl ? options.itl : 1)) + 1;
    c->limit = i < c->record.tokens ? c->head_size + offset(c->events, i) : c->end;
    c->due += options.itl;
    if (i < c->record.tokens) sink(c->slot, c);
    else heap_remove(c);
    return push(c);
}

static bool reply(struct conn *c, const char *status, const char *json) {
    char out[1024];
    int n = snprintf(out, sizeof out, "HTTP/1.1 %s\r\nserver: truth\r\ncontent-type: application/json\r\n"
                     "content-length: %zu\r\n\r\n%s", status, strlen(json), json);
    return send(c->fd, out, (size_t)n, MSG_NOSIGNAL) == n;
}

static int tokens_asked(const char *body) {
    static const char *const names[] = {"\"max_tokens\":", "\"max_completion_tokens\":"};
    for (int i = 0; i < 2; i++) {
        const char *found = strstr(body, names[i]);
        int asked = found ? atoi(found + strlen(names[i])) : 0;
        if (asked > 0) return asked;
    }
    return options.tokens;
}

/* A word is a token: the spaces in the prompt, or in the last message. */
static int tokens_given(const char *body, bool is_chat) {
    const char *name = is_chat ? "\"content\"" : "\"prompt\"", *at = NULL;
    for (const char *next = body; (next = strstr(next, name)); next += strlen(name)) at = next + strlen(name);
    int spaces = 0;
    if (!at || at[strspn(at, ": ")] != '"') return 1;
    for (at += strspn(at, ": ") + 1; *at && *at != '"'; at++) {
        if (*at == '\\' && at[1]) at++;
        spaces += *at == ' ';
    }
    return spaces + 1;
}

/* All at once and not in the log: clients ask so how many tokens a prompt has. */
static bool answer_whole(struct conn *c, const char *body, struct events *api) {
    char json[512];
    int asked = tokens_asked(body), prompt = tokens_given(body, api == &chat);
    snprintf(json, sizeof json,
             "{\"id\":\"%swhole\",\"object\":\"%s\",\"created\":%lld,\"model\":\"truth\",\"choices\":[{\"index\":0,%s,"
             "\"finish_reason\":\"length\"}],\"usage\":{\"prompt_tokens\":%d,\"total_tokens\":%d,"
             "\"completion_tokens\":%d}}",
             api->id_prefix, api == &chat ? "chat.completion" : "text_completion", (long long)created,
             api == &chat ? "\"message\":{\"role\":\"assistant\",\"content\":\" the\"}" : "\"text\":\" the\"", prompt,
             prompt + asked, asked);
    return reply(c, "200 OK", json);
}

static bool answer(struct conn *c, const char *body, size_t size, struct events *api) {
    int tokens = tokens_asked(body);
    bool usage = strstr(body, "\"include_usage\"") != NULL;
    c->busy = true;
    c->events = api;
    c->record.number = requests++;
    c->record.tokens = tokens;
    c->record.sent = 0;
    c->record.bytes = (int32_t)size;
    snprintf(c->name, sizeof c->name, "%08x", (unsigned)c->record.number);
    prepare_head(c);
    prepare_tail(c, usage, tokens_given(body, api == &chat));
    c->pos = 0;
    c->end = c->head_size + offset(api, tokens) + c->tail_size;
    in_flight++;
    if (options.flood) {
        c->limit = c->end;
        return push(c);
    }
    if (tokens > c->stamps_room) c->stamps = more(c->stamps, sizeof *c->stamps * (size_t)(c->stamps_room = tokens));
    c->limit = c->head_size;
    c->due = c->record.arrival + options.ttft;
    rise(heap_size++, c);
    return push(c);
}

/* ---- a request ---- */

static const char *field(const char *head, const char *name) {
    const char *found = strcasestr(head, name);
    return found ? found + strlen(name) : NULL;
}

static bool route(struct conn *c, const char *head, const char *body, size_t size) {
    if (!strncmp(head, "GET /health", 11)) return reply(c, "200 OK", "");
    if (!strncmp(head, "GET /version", 12)) return reply(c, "200 OK", "{\"version\":\"truth 1\"}");
    if (!strncmp(head, "GET /v1/models", 14))
        return reply(c, "200 OK", "{\"object\":\"list\",\"data\":[{\"id\":\"truth\",\"object\":\"model\",\"created\":0,"
                                  "\"owned_by\":\"tools\",\"max_model_len\":131072}]}");
    struct events *api = !strncmp(head, "POST /v1/completions ", 21)        ? &completions
                         : !strncmp(head, "POST /v1/chat/completions ", 26) ? &chat
                                                                             : NULL;
    if (!api) return reply(c, "404 Not Found", "{\"detail\":\"Not Found\"}");
    const char *stream = strstr(body, "\"stream\"");
    if (!stream || strncmp(stream + 8 + strspn(stream + 8, ": "), "true", 4)) return answer_whole(c, body, api);
    return answer(c, body, size, api);
}

/* Take whole requests from what has come, unless an answer is under way. False if the connection is to be closed. */
static bool requests_in(struct conn *c) {
    while (!c->busy && c->have) {
        c->in[c->have] = 0; /* room is always one larger */
        char *body = strstr(c->in, "\r\n\r\n");
        if (!body) return c->have < 65536;
        body += 4;
        char saved = body[-1];
        body[-1] = 0; /* fields are looked for in the head only */
        const char *length = field(c->in, "\ncontent-length:"), *id = field(c->in, "\nx-request-id:");
        size_t size = length ? strtoull(length, NULL, 10) : 0, whole = (size_t)(body - c->in) + size;
        c->record.asked_id = id ? strtoll(id, NULL, 10) : NEVER;
        c->close_after = field(c->in, "\nconnection: close") != NULL;
        bool waits = field(c->in, "\nexpect: 100-continue") != NULL;
        body[-1] = saved;
        if (whole > MOST_INPUT) return false;
        if (c->have < whole) {
            bool asks = waits && c->have == (size_t)(body - c->in); /* as curl does before a large body */
            return !asks || send(c->fd, "HTTP/1.1 100 Continue\r\n\r\n", 25, MSG_NOSIGNAL) == 25;
        }
        char next = c->in[whole];
        c->in[whole] = 0;
        bool good = route(c, c->in, body, size);
        c->in[whole] = next;
        memmove(c->in, c->in + whole, c->have - whole);
        c->have -= whole;
        if (!good || (c->close_after && !c->busy)) return false;
    }
    return true;
}

/* Read what came, and when the last of it came: the kernel's own stamp, for this thread may have been busy. */
static bool receive(struct conn *c) {
    for (;;) {
        if (c->room - c->have < 4096) {
            if (c->room > MOST_INPUT) return false;
            c->in = more(c->in, (c->room = 2 * c->room + 16384) + 1);
        }
        struct iovec part = {c->in + c->have, c->room - c->have};
        char control[128];
        struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control,
                                 .msg_controllen = sizeof control};
        ssize_t got = recvmsg(c->fd, &message, MSG_DONTWAIT);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return errno == EAGAIN;
        if (got == 0) return false;
        c->have += (size_t)got;
        if (c->busy) continue; /* its stamp belongs to the next request; pipelining clients get a user stamp */
        c->record.arrival = now();
        c->record.flags = 0;
        for (struct cmsghdr *m = CMSG_FIRSTHDR(&message); m; m = CMSG_NXTHDR(&message, m))
            if (m->cmsg_level == SOL_SOCKET && m->cmsg_type == SCM_TIMESTAMPNS) {
                struct timespec t;
                memcpy(&t, CMSG_DATA(m), sizeof t);
                c->record.arrival = t.tv_sec * INT64_C(1000000000) + t.tv_nsec;
                c->record.flags = KERNEL_STAMP;
            }
        if ((size_t)got < part.iov_len) return true; /* edge-triggered: a short read means that no more is there */
    }
}

/* After anything happened to a connection: an answer that has left whole makes room for the next request. */
static bool settle(struct conn *c) {
    while (c->busy && c->pos == c->end) {
        finish(c);
        if (c->close_after) return false;
        c->record.arrival = now();
        c->record.flags = 0;
        if (!requests_in(c)) return false;
    }
    return true;
}

static void on_event(struct conn *c, unsigned what) {
    bool good = true;
    if (what & (EPOLLIN | EPOLLHUP | EPOLLERR)) good = receive(c) && requests_in(c);
    if (good && c->busy && c->pos < c->limit) good = push(c);
    if (!good || !settle(c)) drop(c);
}

static void accept_all(int listener) {
    for (int fd; (fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0;) {
        int on = 1;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        setsockopt(fd, SOL_SOCKET, SO_TIMESTAMPNS, &on, sizeof on);
        struct conn *c = more(NULL, sizeof *c);
        memset(c, 0, sizeof *c);
        c->fd = fd;
        c->slot = NEVER;
        c->record.connection = connections++;
        if (connections > heap_room) heap = more(heap, sizeof *heap * (size_t)(heap_room = 2 * connections));
        struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLET, .data.ptr = c};
        if (epoll_ctl(set, EPOLL_CTL_ADD, fd, &event)) fail("epoll_ctl");
    }
}

/* ---- the loop ---- */

static int wait_until(struct epoll_event *events, int64_t due) {
    int64_t left = due - now();
    struct timespec span = {left / 1000000000, left % 1000000000};
    if (left <= 0) return epoll_wait(set, events, BATCH, 0);
    int n = (int)syscall(SYS_epoll_pwait2, set, events, BATCH, &span, NULL, 0);
    /* Kernels before 5.11 wait in whole milliseconds only: then look all the time rather than be late. */
    return n < 0 && errno == ENOSYS ? epoll_wait(set, events, BATCH, 0) : n;
}

static void serve(int listener) {
    struct epoll_event events[BATCH];
    while (!stopped) {
        /* A bounded number, so that arrivals are not left lying behind a long row of due tokens. */
        for (int i = 0; i < 64 && heap_size && heap[0]->due <= now(); i++) {
            struct conn *c = heap[0];
            if (!next_token(c) || !settle(c)) drop(c);
        }
        int n = wait_until(events, heap_size ? heap[0]->due : now() + INT64_C(200000000));
        for (int i = 0; i < n; i++) {
            if (!events[i].data.ptr) accept_all(listener);
            else on_event(events[i].data.ptr, events[i].events);
        }
    }
}

static int listen_on(int port) {
    int on = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    socklen_t size = sizeof at;
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (fd < 0) fail("socket");
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    setsockopt(fd, SOL_SOCKET, SO_TIMESTAMPNS, &on, sizeof on); /* inherited: bytes may come before accept() */
    /* Inherited as well. BBR, the default on some systems, paces: what it sends leaves after its write(). */
    setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, "reno", 4);
    if (bind(fd, (struct sockaddr *)&at, sizeof at) || listen(fd, 4096)) fail("cannot listen");
    if (getsockname(fd, (struct sockaddr *)&at, &size)) fail("getsockname");
    printf("port %d\n", ntohs(at.sin_port));
    fflush(stdout);
    return fd;
}

static void read_options(int count, char **given) {
    static const struct option known[] = {{"port", 1, 0, 'p'}, {"ttft-ms", 1, 0, 't'}, {"itl-ms", 1, 0, 'i'},
                                          {"tokens", 1, 0, 'n'}, {"flood", 0, 0, 'f'}, {"cpu", 1, 0, 'c'},
                                          {"log", 1, 0, 'l'}, {0, 0, 0, 0}};
    for (int one; (one = getopt_long(count, given, "", known, NULL)) != -1;) switch (one) {
        case 'p': options.port = atoi(optarg); break;
        case 't': options.ttft = (int64_t)(atof(optarg) * 1e6); break;
        case 'i': options.itl = (int64_t)(atof(optarg) * 1e6); break;
        case 'n': options.tokens = atoi(optarg); break;
        case 'f': options.flood = true; break;
        case 'c': options.cpu = atoi(optarg); break;
        case 'l': options.log = optarg; break;
        default:
            fprintf(stderr, "usage: truth_server [--port 0] [--ttft-ms 50] [--itl-ms 10] [--tokens 100] "
                            "[--flood] [--cpu N] [--log FILE]\n");
            exit(2);
        }
    if (options.tokens < 1 || options.ttft < 0 || options.itl < 1) {
        fprintf(stderr, "truth_server: --tokens must be at least 1, --ttft-ms at least 0 and --itl-ms above 0\n");
        exit(2);
    }
}

static void open_log(void) {
    struct log_header head = {"TRUTH 1", options.ttft, options.itl, options.flood, (int32_t)sizeof(struct record)};
    if (!options.log) return;
    if (!(log_file = fopen(options.log, "wb"))) fail(options.log);
    setvbuf(log_file, NULL, _IOFBF, 1 << 16);
    fwrite(&head, sizeof head, 1, log_file);
    fflush(log_file);
}

int main(int count, char **given) {
    read_options(count, given);
    struct rlimit files;
    if (!getrlimit(RLIMIT_NOFILE, &files)) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
    if (options.cpu >= 0) {
        cpu_set_t one;
        CPU_ZERO(&one);
        CPU_SET((size_t)options.cpu, &one);
        if (sched_setaffinity(0, sizeof one, &one)) fail("cannot run on that core");
    }
    prctl(PR_SET_TIMERSLACK, 1UL); /* the default lets the kernel wake a sleeper 50 µs late */
    struct sigaction ends = {.sa_handler = stop};
    sigaction(SIGTERM, &ends, NULL);
    sigaction(SIGINT, &ends, NULL);
    created = now() / 1000000000;
    time_t start = (time_t)created;
    strftime(date, sizeof date, "%a, %d %b %Y %H:%M:%S GMT", gmtime(&start));
    prepare(&completions);
    prepare(&chat);
    open_log();
    if ((set = epoll_create1(EPOLL_CLOEXEC)) < 0) fail("epoll_create1");
    int listener = listen_on(options.port);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
    if (epoll_ctl(set, EPOLL_CTL_ADD, listener, &event)) fail("epoll_ctl");
    serve(listener);
    if (log_file && fclose(log_file)) fail("the log could not be written");
    return 0;
}

// Runs a compiled xmodel on the board: integers, latency, frames per second, power. One file, C++17; the same command line,
// report and exit codes as run_on_board.py, for networks that Python cannot feed fast enough. On the board:
//
//   g++ -O2 -std=c++17 run_on_board.cpp -o run_on_board -lvart-runner -lxir -lunilog -lglog -lpthread
//   ./run_on_board NAME.xmodel --images IMAGES.npy --logits LOGITS.npy --labels LABELS.npy --result RESULT.json
//   ./run_on_board --probe --result RESULT.json
//
// Exit code 0: done; 1: a mistake in this file; 2: what was given cannot be used; 3: the board is at fault;
// 4: another program has the board.

#include <fcntl.h>
#include <glob.h>
#include <poll.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <any>
#include <array>
#include <atomic>
#include <chrono>
#include <climits>
#include <cmath>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <deque>
#include <fstream>
#include <functional>
#include <iostream>
#include <map>
#include <memory>
#include <numeric>
#include <optional>
#include <regex>
#include <set>
#include <sstream>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <vart/runner.hpp>
#include <vart/tensor_buffer.hpp>
#include <xir/graph/graph.hpp>
#include <xir/graph/subgraph.hpp>
#include <xir/tensor/tensor.hpp>

namespace {

constexpr const char* kVersion = "1";
constexpr size_t kLeastRepeats = 5;
constexpr double kLargestSpread = 0.03;  // (largest - smallest) / median of the repeats; above it they are measured again
constexpr double kLargestDrift = 2.0;    // degrees between the repeats that count
constexpr int kUsualCores = 2;           // where the board does not tell
constexpr size_t kMeasured = 64;         // images that are measured with, over and over: more than a cache holds
constexpr size_t kInFlight = 2;          // jobs a thread keeps going, where VART queues them

struct Refused : std::runtime_error { using std::runtime_error::runtime_error; };     // exit code 2
struct BoardFault : std::runtime_error { using std::runtime_error::runtime_error; };  // exit code 3
struct BoardBusy : std::runtime_error { using std::runtime_error::runtime_error; };   // exit code 4

using Strings = std::vector<std::string>;
using Number = std::optional<double>;

std::string environment(const char* name, const char* usual) {
  const char* value = std::getenv(name);
  return value ? value : usual;
}

double now_s() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// --- JSON

std::string text(const std::string& value) {
  std::string out = "\"";
  for (unsigned char c : value) {
    if (c == '"' || c == '\\') {
      out += '\\';
      out += static_cast<char>(c);
    } else if (c < 0x20 || c > 0x7e) {
      char code[8];
      std::snprintf(code, sizeof code, "\\u%04x", c);
      out += code;
    } else {
      out += static_cast<char>(c);
    }
  }
  return out + "\"";
}

std::string number(double value) {
  char out[40];
  std::snprintf(out, sizeof out, "%.9g", value);
  return std::isfinite(value) ? out : "null";
}

std::string number(const Number& value) { return value ? number(*value) : "null"; }
std::string text_or_null(const std::optional<std::string>& value) { return value ? text(*value) : "null"; }

template <typename T>
std::string list(const std::vector<T>& values) {
  std::string out = "[";
  for (size_t i = 0; i < values.size(); ++i) out += (i ? ", " : "") + number(static_cast<double>(values[i]));
  return out + "]";
}

// Names with values that are JSON already.
using Entries = std::vector<std::pair<std::string, std::string>>;

std::string object(const Entries& entries) {
  std::string out = "{";
  for (size_t i = 0; i < entries.size(); ++i) out += (i ? ", " : "") + text(entries[i].first) + ": " + entries[i].second;
  return out + "}";
}

std::string format(const char* words, double value) {
  char out[200];
  std::snprintf(out, sizeof out, words, value);
  return out;
}

// --- signs of life: VART aborts the process at a DPU that does not answer, or hangs, so that another process watches

int heart = -1;
std::atomic<double> last_beat{0};
pid_t child = 0;
volatile std::sig_atomic_t stopped_by = 0;

std::string signal_name(int number) {
  const std::map<int, const char*> names{{SIGHUP, "SIGHUP"},   {SIGINT, "SIGINT"},   {SIGQUIT, "SIGQUIT"},
                                         {SIGILL, "SIGILL"},   {SIGTRAP, "SIGTRAP"}, {SIGABRT, "SIGABRT"},
                                         {SIGBUS, "SIGBUS"},   {SIGFPE, "SIGFPE"},   {SIGKILL, "SIGKILL"},
                                         {SIGSEGV, "SIGSEGV"}, {SIGPIPE, "SIGPIPE"}, {SIGTERM, "SIGTERM"}};
  const auto found = names.find(number);
  return found == names.end() ? "signal " + std::to_string(number) : found->second;
}

void beat() {
  const double now = now_s();
  double last = last_beat;
  if (heart >= 0 && now - last > 0.25 && last_beat.compare_exchange_strong(last, now) && write(heart, ".", 1) < 0) _exit(3);
}

void progress(const std::string& phase) {
  std::cerr << phase << std::endl;
  if (heart >= 0 && write(heart, ".", 1) < 0) _exit(3);
}

int watch(const std::function<int()>& work) {
  const double patience = std::atof(environment("EDGESEARCH_PATIENCE_S", "60").c_str());
  int ends[2];
  if (pipe(ends) != 0) throw BoardFault("no pipe can be opened");
  const pid_t parent = getpid();
  child = fork();
  if (child < 0) throw BoardFault("no process can be started");
  if (child == 0) {
    close(ends[0]);
    heart = ends[1];
    prctl(PR_SET_PDEATHSIG, SIGKILL);  // nobody may be left who holds the lock of the board
    return getppid() == parent ? work() : 3;
  }
  close(ends[1]);
  for (int signal_number : {SIGTERM, SIGINT, SIGHUP})
    signal(signal_number, [](int number) {
      stopped_by = number;
      kill(child, SIGKILL);
    });
  char ignored[4096];
  while (true) {
    pollfd waiting{ends[0], POLLIN, 0};
    const int ready = poll(&waiting, 1, static_cast<int>(patience * 1e3));
    if (ready == 0) {
      kill(child, SIGKILL);
      waitpid(child, nullptr, 0);
      std::cerr << format("error: the DPU gave no sign of life for %g s", patience) << std::endl;
      return 3;
    }
    if (ready > 0 && read(ends[0], ignored, sizeof ignored) <= 0) break;
  }
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  if (stopped_by) {
    std::cerr << "error: the program was stopped (" << signal_name(stopped_by) << ")\n";
    return 3;
  }
  if (WIFSIGNALED(status)) {
    std::cerr << "error: VART ended the program (" << signal_name(WTERMSIG(status))
              << "); the lines above say why, if it knew\n";
    return 3;
  }
  return WEXITSTATUS(status);
}

// The lock file, made where there is none. Several users share it, and in /tmp nobody may write, or make, what is another's.
int open_lock(const std::string& path) {
  constexpr int flags = O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK;
  int file = open(path.c_str(), flags);
  if (file < 0 && errno == ENOENT) {
    file = open(path.c_str(), flags | O_CREAT, 0644);
    if (file >= 0) fchmod(file, 0644);  // whatever the umask
  }
  if (file < 0) throw BoardFault("the lock file " + path + " cannot be opened: " + std::strerror(errno));
  struct stat info {};
  if (fstat(file, &info) != 0 || !S_ISREG(info.st_mode))
    throw BoardFault("the lock file " + path + " cannot be opened: it is no file");
  return file;
}

void take_lock(const std::string& path, double seconds) {
  const int file = open_lock(path);
  const double end = now_s() + seconds;
  progress("waiting");
  while (flock(file, LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK && errno != EINTR)  // some file systems lock nothing, however long one waits
      throw BoardFault("the lock file " + path + " cannot be locked here (" + std::strerror(errno) + "); name another folder");
    if (now_s() >= end) throw BoardBusy("the board is busy: another program held " + path + format(" for %g s", seconds));
    beat();
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
}

// --- the board

std::string under_root(const std::string& path) { return environment("EDGESEARCH_BOARD_ROOT", "/") + "/" + path; }

std::optional<std::string> read_text(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return std::nullopt;
  std::string content((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  const auto end = content.find_last_not_of(std::string("\0\n ", 3));
  return content.substr(0, end == std::string::npos ? 0 : end + 1);
}

Number read_number(const std::string& path) {
  const auto content = read_text(path);
  if (!content || content->empty()) return std::nullopt;
  char* end = nullptr;
  const double value = std::strtod(content->c_str(), &end);
  return *end == 0 ? Number(value) : std::nullopt;
}

Strings find(const std::string& pattern) {
  glob_t found{};
  Strings out;
  if (glob(under_root(pattern).c_str(), 0, nullptr, &found) == 0) out.assign(found.gl_pathv, found.gl_pathv + found.gl_pathc);
  globfree(&found);
  return out;
}

// What a program of the board prints; "" where it is not there, fails, or takes longer than 30 s.
std::string output_of(const Strings& words) {
  beat();
  int ends[2];
  if (pipe(ends) != 0) return "";
  const pid_t process = fork();
  if (process == 0) {
    dup2(ends[1], 1);
    for (int file : {ends[0], ends[1], heart}) close(file);
    if (freopen("/dev/null", "w", stderr) == nullptr) _exit(127);
    setenv("PATH", (environment("PATH", "") + ":/usr/bin:/usr/local/bin:/usr/sbin").c_str(), 1);
    std::vector<char*> arguments;
    for (const auto& word : words) arguments.push_back(const_cast<char*>(word.c_str()));
    arguments.push_back(nullptr);
    alarm(30);
    execvp(arguments[0], arguments.data());
    _exit(127);
  }
  close(ends[1]);
  std::string out;
  char buffer[4096];
  for (ssize_t count; process > 0 && (count = read(ends[0], buffer, sizeof buffer)) > 0;) out.append(buffer, count);
  close(ends[0]);
  int status = 1;
  if (process > 0) waitpid(process, &status, 0);
  return status == 0 ? out : "";
}

Strings all_in(const std::string& words, const char* pattern) {
  const std::regex expression(pattern);
  Strings out;
  for (std::sregex_iterator found(words.begin(), words.end(), expression), end; found != end; ++found) out.push_back((*found)[1]);
  return out;
}

std::string hexadecimal(uint64_t mark) {
  char out[20];
  std::snprintf(out, sizeof out, "0x%llx", static_cast<unsigned long long>(mark));
  return out;
}

struct BoardFacts {
  std::optional<std::string> fingerprint, vart, cpu;
  Number cores, mhz;

  BoardFacts() {
    const std::string query = output_of({"xdputil", "query"});
    Strings marks = all_in(query, "\"fingerprint\"\\s*:\\s*\"?(0x[0-9a-fA-F]+)");
    const Strings counts = all_in(query, "\"DPU Core Count\"\\s*:\\s*([0-9]+)");
    if (marks.empty()) marks = all_in(output_of({"show_dpu"}), "fingerprint\\s*=\\s*(0x[0-9a-fA-F]+)");
    if (!marks.empty()) {
      fingerprint = hexadecimal(std::strtoull(marks[0].c_str(), nullptr, 16));
      cores = static_cast<double>(marks.size());
    }
    if (!counts.empty() && std::atoi(counts[0].c_str()) > 0) cores = std::atoi(counts[0].c_str());
    const Strings versions = all_in(query, "libvart-runner\\.so[^,]*?([0-9]+\\.[0-9]+\\.[0-9]+)");
    if (!versions.empty()) vart = versions[0];
    const Strings clocks = all_in(query, "\"DPU Frequency \\(MHz\\)\"\\s*:\\s*([0-9.]+)");
    if (!clocks.empty() && std::atof(clocks[0].c_str()) > 0) mhz = std::atof(clocks[0].c_str());
    cpu = read_text(under_root("proc/device-tree/model"));
    if (!cpu) {
      const Strings models = all_in(read_text(under_root("proc/cpuinfo")).value_or(""), "model name\\s*:\\s*([^\\n]+)");
      if (!models.empty()) cpu = models[0];
    }
    if (cpu) cpu = cpu->substr(0, 200);
  }

  std::string json() const {
    return object({{"fingerprint", text_or_null(fingerprint)}, {"vart", text_or_null(vart)}, {"dpu_cores", number(cores)},
                   {"dpu_mhz", number(mhz)}, {"cpu", text_or_null(cpu)}, {"python", "null"}});
  }
};

// The board's own power sensors, in hwmon: those of its 12 V supply or of its rails.
struct Power {
  std::optional<std::string> name;
  Strings paths;

  Power() {
    std::vector<std::pair<std::string, std::string>> rails, monitors;
    for (const auto& path : find("sys/class/hwmon/hwmon*/power*_input")) {
      const std::string chip = read_text(path.substr(0, path.rfind('/')) + "/name").value_or("?");
      const std::string label = read_text(path.substr(0, path.size() - 6) + "_label").value_or("");
      if (label != "pin" && read_number(path)) rails.emplace_back(chip, path);  // a regulator's input is counted elsewhere
    }
    for (const auto& rail : rails)
      if (rail.first.rfind("ina", 0) == 0) monitors.push_back(rail);  // INA226, INA260: made to measure power
    std::set<std::string> chips;
    for (const auto& rail : monitors.empty() ? rails : monitors) {
      chips.insert(rail.first);
      paths.push_back(rail.second);
    }
    std::string what;
    for (const auto& chip : chips) what += (what.empty() ? "" : ", ") + chip;
    what = what.substr(0, 200);
    if (paths.size() > 1) what = "sum of " + std::to_string(paths.size()) + " rails: " + what;
    if (read().value_or(0) > 0) name = what;
  }

  Number read() const {
    double watts = 0;
    for (const auto& path : paths) {
      const Number value = read_number(path);
      if (!value) return std::nullopt;
      watts += *value * 1e-6;
    }
    return paths.empty() ? std::nullopt : Number(watts);
  }

  // The mean of readings, ten a second, until `stop` says so.
  Number mean(const std::function<bool()>& stop) const {
    double sum = 0;
    int count = 0;
    while (true) {
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
      if (stop()) break;
      if (const Number watts = read()) {
        sum += *watts;
        ++count;
      }
    }
    return count ? Number(sum / count) : std::nullopt;
  }
};

// Degrees Celsius of the hottest sensor of the chip.
Number temperature() {
  std::vector<double> degrees;
  for (const auto& path : find("sys/bus/iio/devices/iio:device*/in_temp*_raw")) {
    const std::string stem = path.substr(0, path.size() - 4);
    const Number raw = read_number(path), scale = read_number(stem + "_scale");
    if (raw && scale) degrees.push_back((*raw + read_number(stem + "_offset").value_or(0)) * *scale / 1e3);
  }
  for (const char* pattern : {"sys/class/hwmon/hwmon*/temp*_input", "sys/class/thermal/thermal_zone*/temp"}) {
    if (!degrees.empty()) break;
    for (const auto& path : find(pattern))
      if (const Number value = read_number(path)) degrees.push_back(*value / 1e3);
  }
  return degrees.empty() ? std::nullopt : Number(*std::max_element(degrees.begin(), degrees.end()));
}

// --- files

// The bytes of a file; none where it cannot be read.
std::optional<std::string> read_bytes(const std::string& path) {
  struct stat info {};
  if (stat(path.c_str(), &info) != 0 || !S_ISREG(info.st_mode)) return std::nullopt;
  std::string out(static_cast<size_t>(info.st_size), '\0');
  std::ifstream file(path, std::ios::binary);
  return file.read(&out[0], info.st_size) ? std::optional<std::string>(std::move(out)) : std::nullopt;
}

// The array of a .npy file: its shape, and its bytes in C order.
struct Array {
  std::vector<size_t> shape;
  std::string bytes;
  size_t start = 0;

  Array(const std::string& path, const std::string& what, const std::string& kind, size_t size) {
    bytes = read_bytes(path).value_or("");
    const auto refuse = [&](const std::string& why) { throw Refused("the " + what + " in " + path + " " + why); };
    if (bytes.size() < 12 || bytes.compare(0, 6, "\x93NUMPY") != 0) refuse("cannot be read as a .npy file");
    const auto byte = [&](size_t at) { return static_cast<size_t>(static_cast<unsigned char>(bytes[at])); };
    const size_t width = byte(6) == 1 ? 2 : 4;
    size_t length = 0;
    for (size_t i = 0; i < width; ++i) length |= byte(8 + i) << (8 * i);
    start = 8 + width + length;
    if (byte(6) < 1 || byte(6) > 3 || length > 10000 || start > bytes.size()) refuse("cannot be read as a .npy file");
    const std::string header = bytes.substr(8 + width, length);
    std::smatch found;
    if (!std::regex_search(header, found, std::regex("'descr':\\s*'([^']*)'")) || found[1] != kind ||
        !std::regex_search(header, std::regex("'fortran_order':\\s*False")) ||
        !std::regex_search(header, found, std::regex("'shape':\\s*\\(([0-9, ]*)\\)")))
      refuse("are no array of " + what_is(kind) + " in C order");
    const std::string sizes = found[1];
    size_t count = 1;
    for (const auto& one : all_in(sizes, "([0-9]+)")) {
      shape.push_back(std::strtoull(one.c_str(), nullptr, 10));
      if (shape.back() != 0 && count > SIZE_MAX / size / shape.back()) refuse("have an impossible shape");
      count *= shape.back();
    }
    if (shape.empty()) refuse("are no array of " + what_is(kind) + " in C order");
    if (bytes.size() - start != count * size) refuse("are cut off, or more than their shape says");
  }

  static std::string what_is(const std::string& kind) { return kind == "|i1" ? "int8" : "int64"; }
  const int8_t* int8s() const { return reinterpret_cast<const int8_t*>(bytes.data() + start); }
  int64_t int64_at(size_t index) const {
    int64_t value;
    std::memcpy(&value, bytes.data() + start + 8 * index, 8);
    return value;
  }
};

// Write a file under another name and rename it: it appears whole or not at all.
void write_file(const std::string& path, const std::string& content) {
  const std::string temporary = path + "." + std::to_string(getpid()) + ".part";
  const int file = open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  bool good = file >= 0;
  for (size_t done = 0; good && done < content.size();) {
    const ssize_t count = write(file, content.data() + done, content.size() - done);
    good = count > 0;
    done += good ? static_cast<size_t>(count) : 0;
  }
  good = good && fsync(file) == 0;
  const int error = errno;
  if (file >= 0) close(file);
  if (!good || rename(temporary.c_str(), path.c_str()) != 0) {
    const std::string why = std::strerror(good ? errno : error);
    unlink(temporary.c_str());
    throw BoardFault(path + " cannot be written on the board: " + why);
  }
}

std::string npy(const std::vector<int8_t>& values, size_t rows) {
  std::string header = "{'descr': '|i1', 'fortran_order': False, 'shape': (" + std::to_string(rows) + ", " +
                       std::to_string(rows ? values.size() / rows : 0) + "), }";
  header.append(64 - (10 + header.size() + 1) % 64, ' ');
  header += '\n';
  std::string out("\x93NUMPY\x01\x00", 8);
  out += static_cast<char>(header.size() & 0xff);
  out += static_cast<char>(header.size() >> 8);
  return out + header + std::string(reinterpret_cast<const char*>(values.data()), values.size());
}

// SHA-256 (FIPS 180-4) of a file. Its constants are the fractional bits of the roots of the first primes.
std::string sha256_of(const std::string& path) {
  std::string content = read_bytes(path).value_or("");
  std::array<uint32_t, 64> k{};
  std::array<uint32_t, 8> h{};
  for (uint32_t prime = 2, found = 0; found < 64; ++prime) {
    bool is_prime = true;
    for (uint32_t d = 2; d * d <= prime; ++d) is_prime = is_prime && prime % d != 0;
    if (!is_prime) continue;
    const auto bits = [](long double root) { return static_cast<uint32_t>((root - std::floor(root)) * 4294967296.0L); };
    if (found < 8) h[found] = bits(std::sqrt(static_cast<long double>(prime)));
    k[found++] = bits(std::cbrt(static_cast<long double>(prime)));
  }
  const uint64_t bit_count = 8 * static_cast<uint64_t>(content.size());
  content += '\x80';
  content.append((120 - content.size() % 64) % 64, '\0');
  for (int shift = 56; shift >= 0; shift -= 8) content += static_cast<char>(bit_count >> shift);
  const auto rotate = [](uint32_t x, int n) { return x >> n | x << (32 - n); };
  for (size_t block = 0; block < content.size(); block += 64) {
    uint32_t w[64];
    for (int i = 0; i < 16; ++i) {
      w[i] = 0;
      for (int j = 0; j < 4; ++j) w[i] = w[i] << 8 | static_cast<unsigned char>(content[block + 4 * i + j]);
    }
    for (int i = 16; i < 64; ++i) {
      const uint32_t a = w[i - 15], b = w[i - 2];
      w[i] = w[i - 16] + (rotate(a, 7) ^ rotate(a, 18) ^ a >> 3) + w[i - 7] + (rotate(b, 17) ^ rotate(b, 19) ^ b >> 10);
    }
    auto s = h;
    for (int i = 0; i < 64; ++i) {
      const uint32_t t1 = s[7] + (rotate(s[4], 6) ^ rotate(s[4], 11) ^ rotate(s[4], 25)) + ((s[4] & s[5]) ^ (~s[4] & s[6])) +
                          k[i] + w[i];
      const uint32_t t2 = (rotate(s[0], 2) ^ rotate(s[0], 13) ^ rotate(s[0], 22)) +
                          ((s[0] & s[1]) ^ (s[0] & s[2]) ^ (s[1] & s[2]));
      s = {t1 + t2, s[0], s[1], s[2], s[3] + t1, s[4], s[5], s[6]};
    }
    for (int i = 0; i < 8; ++i) h[i] += s[i];
  }
  std::string out;
  char word[9];
  for (uint32_t part : h) {
    std::snprintf(word, sizeof word, "%08x", part);
    out += word;
  }
  return out;
}

// --- the network

// Memory of ours that VART copies from and to.
class HostBuffer : public vart::TensorBuffer {
 public:
  explicit HostBuffer(const xir::Tensor* tensor) : TensorBuffer(tensor), shape_(tensor->get_shape()) {
    size_t count = 1;
    for (int size : shape_) count *= static_cast<size_t>(size);
    bytes_.assign(count, 0);
  }
  std::pair<std::uint64_t, std::size_t> data(const std::vector<std::int32_t> index = {}) override {
    size_t offset = 0, step = bytes_.size();
    for (size_t i = 0; i < index.size() && i < shape_.size(); ++i) {
      step /= static_cast<size_t>(shape_[i]);
      offset += static_cast<size_t>(index[i]) * step;
    }
    return {reinterpret_cast<std::uint64_t>(bytes_.data() + offset), bytes_.size() - offset};
  }
  int8_t* bytes() { return bytes_.data(); }
  size_t size() const { return bytes_.size(); }

 private:
  std::vector<std::int32_t> shape_;
  std::vector<int8_t> bytes_;
};

// One runner with its own buffers. No two threads share one.
class Network {
 public:
  using Job = std::pair<uint32_t, int>;
  std::vector<int> shape, out_shape;  // without the batch
  size_t batch = 1, in_size = 0, out_size = 0;
  std::optional<int> in_fix, out_fix;

  explicit Network(const xir::Subgraph* subgraph) {
    try {
      runner_ = vart::Runner::create_runner(subgraph, "run");
    } catch (const std::exception& error) {
      throw BoardFault(std::string("VART makes no runner: ") + error.what());
    }
    if (!runner_) throw BoardFault("VART makes no runner");
    const auto inputs = runner_->get_input_tensors(), outputs = runner_->get_output_tensors();
    if (inputs.size() != 1 || outputs.size() != 1)
      throw Refused("the xmodel has " + std::to_string(inputs.size()) + " inputs and " + std::to_string(outputs.size()) +
                    " outputs; expected one of each");
    for (const auto* tensor : {inputs[0], outputs[0]})
      if (tensor->get_data_type().bit_width != 8) throw Refused("the xmodel's input or output is not of 8 bits");
    const auto in = inputs[0]->get_shape(), out = outputs[0]->get_shape();
    shape.assign(in.begin() + 1, in.end());
    out_shape.assign(out.begin() + 1, out.end());
    batch = static_cast<size_t>(in[0]);
    in_fix = fix_position(inputs[0]);
    out_fix = fix_position(outputs[0]);
    for (size_t slot = 0; slot < kInFlight; ++slot) {
      in_.push_back(std::make_unique<HostBuffer>(inputs[0]));
      out_.push_back(std::make_unique<HostBuffer>(outputs[0]));
    }
    in_size = in_[0]->size() / batch;
    out_size = out_[0]->size() / batch;
  }

  Job start(size_t slot, const int8_t* images, size_t count) {
    std::memcpy(in_[slot]->bytes(), images, count * in_size);
    try {
      const Job job = runner_->execute_async({in_[slot].get()}, {out_[slot].get()});
      if (job.second != 0) throw BoardFault("status " + std::to_string(job.second));
      return job;
    } catch (const std::exception& error) {
      throw BoardFault(std::string("the DPU did not take a job: ") + error.what());
    }
  }

  const int8_t* finish(size_t slot, const Job& job) {
    try {
      const int status = runner_->wait(static_cast<int>(job.first), -1);
      if (status != 0) throw BoardFault("status " + std::to_string(status));
    } catch (const std::exception& error) {
      throw BoardFault(std::string("the DPU did not end a job: ") + error.what());
    }
    beat();
    return out_[slot]->bytes();
  }

 private:
  static std::optional<int> fix_position(const xir::Tensor* tensor) {
    if (!tensor->has_attr("fix_point")) return std::nullopt;
    const xir::any value = tensor->get_attr("fix_point");
    const auto* position = std::any_cast<std::int32_t>(&value);
    return position ? std::optional<int>(*position) : std::nullopt;
  }
  std::unique_ptr<vart::Runner> runner_;
  std::vector<std::unique_ptr<HostBuffer>> in_, out_;
};

using Networks = std::vector<std::unique_ptr<Network>>;

const xir::Subgraph* dpu_subgraph(xir::Graph& graph, const std::string& path) {
  const xir::Subgraph* root = graph.get_root_subgraph();
  std::vector<const xir::Subgraph*> on_dpu;
  std::map<std::string, int> counts;
  if (!root->is_leaf()) {
    for (const auto* one : root->children_topological_sort()) {
      std::string device = one->has_attr("device") ? one->get_attr<std::string>("device") : "NONE";
      for (char& c : device) c = static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
      ++counts[device];
      if (device == "DPU") on_dpu.push_back(one);
    }
  }
  if (on_dpu.size() == 1) return on_dpu[0];
  std::string found;
  for (const auto& one : counts) found += (found.empty() ? "" : ", ") + std::to_string(one.second) + " " + one.first;
  throw Refused(path + " has subgraphs " + (found.empty() ? "none: it is not compiled" : found) +
                "; expected exactly one for the DPU, so compile it for this board");
}

std::optional<std::string> mark_of(const xir::Subgraph* subgraph) {
  if (!subgraph->has_attr("dpu_fingerprint")) return std::nullopt;
  const xir::any value = subgraph->get_attr("dpu_fingerprint");
  if (const auto* mark = std::any_cast<std::uint64_t>(&value)) return hexadecimal(*mark);
  if (const auto* mark = std::any_cast<std::int64_t>(&value)) return hexadecimal(static_cast<uint64_t>(*mark));
  return std::nullopt;
}

// What to do about a file for a DPU of another fingerprint; bits 48 to 55 are the instruction set.
std::string other_mark_advice(const std::string& file, const std::string& board) {
  const auto set = [](const std::string& mark) { return std::stoull(mark, nullptr, 16) >> 48 & 0xff; };
  if (set(file) == set(board)) return "compile it again with --fingerprint " + board;
  return "its instruction set is " + std::to_string(set(board)) + ", the file's " + std::to_string(set(file)) +
         ": take an image for the board whose DPU has that one";
}

// Run each in a thread; what one throws is thrown here.
void together(size_t count, const std::function<void(size_t)>& work) {
  std::vector<std::exception_ptr> errors(count);
  std::vector<std::thread> threads;
  for (size_t i = 0; i < count; ++i)
    threads.emplace_back([&, i] {
      try {
        work(i);
      } catch (...) {
        errors[i] = std::current_exception();
      }
    });
  for (auto& thread : threads) thread.join();
  for (auto& error : errors)
    if (error) std::rethrow_exception(error);
}

// Images to measure with: a batch may begin at any multiple of the batch.
struct Images {
  const int8_t* values;
  size_t count;
};

// Run the batches that `next` names until it names none; `done` gets each batch's outputs and first image.
void feed(Network& network, const Images& images, const std::function<std::optional<size_t>()>& next,
          const std::function<void(const int8_t*, size_t, size_t)>& done) {
  struct Going { size_t slot; Network::Job job; size_t first, count; };
  std::deque<Going> going;
  size_t slot = 0;
  const auto end_oldest = [&] {
    const Going one = going.front();
    going.pop_front();
    done(network.finish(one.slot, one.job), one.first, one.count);
  };
  while (const auto first = next()) {
    if (going.size() == kInFlight) end_oldest();
    const size_t count = std::min(network.batch, images.count - *first);
    going.push_back({slot, network.start(slot, images.values + *first * network.in_size, count), *first, count});
    slot = (slot + 1) % kInFlight;
  }
  while (!going.empty()) end_oldest();
}

// All images, shared out among the threads: int8 (N, values).
std::vector<int8_t> run_all(Networks& networks, const Images& images) {
  const size_t size = networks[0]->out_size, batch = networks[0]->batch;
  std::vector<int8_t> logits(images.count * size);
  std::atomic<size_t> taken{0};
  together(networks.size(), [&](size_t i) {
    feed(
        *networks[i], images,
        [&]() -> std::optional<size_t> {
          const size_t first = batch * taken++;
          return first < images.count ? std::optional<size_t>(first) : std::nullopt;
        },
        [&](const int8_t* values, size_t first, size_t count) { std::memcpy(&logits[first * size], values, count * size); });
  });
  return logits;
}

// --- measuring

double percentile(std::vector<double> values, double percent) {
  std::sort(values.begin(), values.end());
  const double place = percent / 100 * static_cast<double>(values.size() - 1);
  const size_t below = static_cast<size_t>(place), above = std::min(below + 1, values.size() - 1);
  return values[below] + (place - static_cast<double>(below)) * (values[above] - values[below]);
}

struct Repeat {
  double value = 0;
  std::vector<double> times;
  size_t images = 0;
  Number degrees;
};

struct Repeats {
  std::deque<Repeat> kept;
  double spread = 0;
  bool settled = false;

  // The last ones that agree, up to twice as many being made.
  Repeats(const std::string& what, size_t repeats, const std::function<Repeat()>& once) {
    for (size_t made = 1; made <= 2 * repeats; ++made) {
      progress(what + " " + std::to_string(made) + "/" + std::to_string(repeats));
      kept.push_back(once());
      kept.back().degrees = temperature();
      if (kept.size() > repeats) kept.pop_front();
      const auto all = values();
      const auto ends = std::minmax_element(all.begin(), all.end());
      spread = (*ends.second - *ends.first) / percentile(all, 50);
      std::vector<double> degrees;
      for (const auto& one : kept)
        if (one.degrees) degrees.push_back(*one.degrees);
      const double drift = degrees.empty() ? 0 : *std::max_element(degrees.begin(), degrees.end()) -
                                                     *std::min_element(degrees.begin(), degrees.end());
      settled = kept.size() == repeats && spread <= kLargestSpread && drift <= kLargestDrift;
      if (settled) break;
    }
  }

  std::vector<double> values() const {
    std::vector<double> out;
    for (const auto& one : kept) out.push_back(one.value);
    return out;
  }
};

// One thread, one job: from an image in memory to its result.
std::string measure_latency(Network& network, const Images& images, double seconds, size_t repeats) {
  const size_t batches = std::max<size_t>(1, images.count / network.batch);
  const Repeats all("latency", repeats, [&] {
    Repeat out;
    const double end = now_s() + seconds / static_cast<double>(repeats);
    while (now_s() < end || out.times.size() < 10) {
      const size_t first = out.times.size() % batches * network.batch;
      const double start = now_s();
      network.finish(0, network.start(0, images.values + first * network.in_size, std::min(network.batch, images.count)));
      out.times.push_back(1e3 * (now_s() - start));
    }
    out.value = percentile(out.times, 50);
    return out;
  });
  std::vector<double> times;
  for (const auto& one : all.kept) times.insert(times.end(), one.times.begin(), one.times.end());
  const double mean = std::accumulate(times.begin(), times.end(), 0.0) / static_cast<double>(times.size());
  return object({{"threads", "1"}, {"median_ms", number(percentile(times, 50))}, {"mean_ms", number(mean)},
                 {"p95_ms", number(percentile(times, 95))}, {"p99_ms", number(percentile(times, 99))},
                 {"min_ms", number(*std::min_element(times.begin(), times.end()))}, {"runs", std::to_string(times.size())},
                 {"repeats_ms", list(all.values())}, {"spread", number(all.spread)},
                 {"settled", all.settled ? "true" : "false"}});
}

// Images per second between two moments when all threads were at work, in whole rounds of the threads: cores that go in step
// end their jobs together. Where a thread got so little of the DPU that there is no such time, all jobs between the first end
// and the last count.
Repeat rate(const std::vector<std::vector<double>>& ends, size_t batch) {
  double last = ends[0].back();
  for (const auto& one : ends) last = std::min(last, one.back());
  std::vector<double> times;
  for (const auto& one : ends) times.insert(times.end(), one.begin(), one.end());
  std::sort(times.begin(), times.end());
  const size_t among = static_cast<size_t>(std::upper_bound(times.begin(), times.end(), last) - times.begin());
  size_t first = ends.size(), jobs = among > first ? (among - 1 - first) / ends.size() * ends.size() : 0;
  if (jobs == 0) {
    first = 0;
    jobs = times.size() - 1;
  }
  Repeat out;
  out.images = batch * times.size();
  out.value = static_cast<double>(batch * jobs) / (times[first + jobs] - times[first]);
  return out;
}

// All cores busy: every thread has a runner of its own.
std::string measure_throughput(Networks& networks, const Images& images, double seconds, size_t repeats) {
  const size_t batch = networks[0]->batch, batches = std::max<size_t>(1, images.count / batch);
  const Repeats all("throughput", repeats, [&] {
    const double end = now_s() + seconds / static_cast<double>(repeats);
    std::vector<std::vector<double>> ends(networks.size());
    together(networks.size(), [&](size_t i) {
      size_t made = 0;
      feed(
          *networks[i], images,
          [&]() -> std::optional<size_t> {
            if (now_s() >= end && made >= 8) return std::nullopt;
            return made++ % batches * batch;
          },
          [&](const int8_t*, size_t, size_t) { ends[i].push_back(now_s()); });
      // A job that VART executes in the call is waited for one job late, and those that go at the end at one moment: of these
      // only the first time counts, or a thread alone would seem faster than it is.
      ends[i].resize(ends[i].size() - (kInFlight - 1));
    });
    return rate(ends, batch);
  });
  size_t count = 0;
  for (const auto& one : all.kept) count += one.images;
  return object({{"threads", std::to_string(networks.size())}, {"fps", number(percentile(all.values(), 50))},
                 {"images", std::to_string(count)}, {"repeats_fps", list(all.values())}, {"spread", number(all.spread)},
                 {"settled", all.settled ? "true" : "false"}});
}

// --- what can be asked for

struct Arguments {
  std::string xmodel, images, logits, labels, lock, result;
  double seconds = 2, lock_timeout = 600;
  bool help = false;
  size_t repeats = 5, threads = 0;
  bool probe = false;
};

double number_of(const std::string& option, const std::string& word, double least, double most) {
  char* end = nullptr;
  const double value = std::strtod(word.c_str(), &end);
  if (word.empty() || *end != 0 || !(value >= least && value <= most))
    throw Refused(option + " is " + word + ", expected a number from " + format("%g", least) + format(" to %g", most));
  return value;
}

size_t count_of(const std::string& option, const std::string& word, double least, double most) {
  const double value = number_of(option, word, least, most);
  if (value != std::floor(value)) throw Refused(option + " is " + word + ", expected a whole number");
  return static_cast<size_t>(value);
}

Arguments parse(const Strings& words) {
  Arguments out;
  const std::map<std::string, std::string*> texts{{"--images", &out.images}, {"--logits", &out.logits},
                                                  {"--labels", &out.labels}, {"--lock", &out.lock},
                                                  {"--result", &out.result}};
  bool is_waiting = false;
  for (size_t i = 0; i < words.size(); ++i) {
    const std::string& word = words[i];
    if (word == "--probe") {
      out.probe = true;
      continue;
    }
    if (word == "--help" || word == "-h") {
      out.help = true;
      return out;
    }
    if (word.rfind("--", 0) != 0) {
      if (!out.xmodel.empty()) throw Refused("two xmodels are given, expected one");
      out.xmodel = word;
      continue;
    }
    const bool is_number = word == "--seconds" || word == "--repeats" || word == "--threads" || word == "--lock-timeout";
    if (!is_number && !texts.count(word)) throw Refused("there is no option " + word + "; --help lists them");
    if (i + 1 == words.size()) throw Refused(word + " has no value");
    const std::string& value = words[++i];
    is_waiting |= word == "--lock-timeout";
    if (texts.count(word)) *texts.at(word) = value;
    else if (word == "--seconds") out.seconds = number_of(word, value, 1e-6, 3600);
    else if (word == "--repeats") out.repeats = count_of(word, value, 1, 100);
    else if (word == "--threads") out.threads = count_of(word, value, 0, 64);
    else out.lock_timeout = number_of(word, value, 0, 1e9);
  }
  if (is_waiting && out.lock.empty()) throw Refused("--lock-timeout is for --lock; give both");
  if (out.result.empty()) throw Refused("give --result, the file for the report");
  if (out.probe && !out.xmodel.empty())
    throw Refused("the xmodel would not be looked at: --probe only says what the board is; leave it out");
  for (const auto& one : texts)
    if (out.probe && one.first != "--lock" && one.first != "--result" && !one.second->empty())
      throw Refused(one.first + " would not be looked at: --probe only says what the board is; leave it out");
  if (!out.probe && (out.xmodel.empty() || out.images.empty()))
    throw Refused("give the compiled xmodel and --images, or --probe; only run_on_board.py reads the folder of an export");
  return out;
}

constexpr char kUsage[] =
    "run_on_board XMODEL --images IMAGES.npy --result REPORT.json [--logits FILE] [--labels FILE] [--seconds 2] [--repeats 5]\n"
    "             [--threads 0] [--lock FILE [--lock-timeout 600]]\n"
    "run_on_board --probe --result REPORT.json [--lock FILE [--lock-timeout 600]]\n";

// Refuse a file whose folder there is not, before the board has worked for it.
void check_place(const std::string& option, const std::string& path) {
  struct stat info {};
  const size_t slash = path.rfind('/');
  const bool is_folder = stat(path.c_str(), &info) == 0 && S_ISDIR(info.st_mode);
  const std::string folder = slash == std::string::npos ? "." : path.substr(0, slash + 1);
  if (is_folder || stat(folder.c_str(), &info) != 0 || !S_ISDIR(info.st_mode))
    throw Refused(option + " " + path + " cannot be written: " + (is_folder ? "it is a folder" : "there is no such folder") +
                  "; give another file");
}

int run_probe(const Arguments& arguments) {
  if (!arguments.lock.empty()) take_lock(arguments.lock, arguments.lock_timeout);
  progress("probing");
  const size_t slash = arguments.result.rfind('/');
  struct statvfs disk {};
  const bool known = statvfs(slash == std::string::npos ? "." : arguments.result.substr(0, slash + 1).c_str(), &disk) == 0;
  const uint64_t free_bytes = static_cast<uint64_t>(disk.f_bavail) * disk.f_frsize;
  write_file(arguments.result,
             object({{"format", "1"}, {"probe", "true"}, {"board", BoardFacts().json()},
                     {"free_bytes", known ? std::to_string(free_bytes) : "null"}, {"power_sensor", text_or_null(Power().name)},
                     {"temperature_c", number(temperature())}, {"vart_importable", "true"}, {"problem", "null"}}) + "\n");
  return 0;
}

std::string iso_time() {
  char out[40];
  const std::time_t now = std::time(nullptr);
  std::tm parts{};
  gmtime_r(&now, &parts);
  std::strftime(out, sizeof out, "%Y-%m-%dT%H:%M:%S+00:00", &parts);
  return out;
}

size_t right_ones(const std::vector<int8_t>& logits, size_t size, const Array& labels) {
  size_t correct = 0;
  for (size_t i = 0; i < labels.shape[0]; ++i) {
    const auto first = logits.begin() + static_cast<std::ptrdiff_t>(i * size);
    correct += std::max_element(first, first + static_cast<std::ptrdiff_t>(size)) - first == labels.int64_at(i);
  }
  return correct;
}

// A board that is held, and the network on it, once for every thread.
struct Ready {
  std::unique_ptr<xir::Graph> graph;
  std::optional<std::string> mark;
  std::optional<BoardFacts> board;
  std::optional<Power> power;
  Number idle;
  Networks networks;

  explicit Ready(const Arguments& arguments) {
    struct stat info {};
    if (stat(arguments.xmodel.c_str(), &info) != 0 || !S_ISREG(info.st_mode))
      throw Refused("there is no file " + arguments.xmodel + "; compile the network for this board first");
    try {
      graph = xir::Graph::deserialize(arguments.xmodel);
    } catch (const std::exception& error) {
      throw Refused(arguments.xmodel + " cannot be read as an xmodel: " + error.what());
    }
    const xir::Subgraph* subgraph = dpu_subgraph(*graph, arguments.xmodel);
    mark = mark_of(subgraph);
    if (!arguments.lock.empty()) take_lock(arguments.lock, arguments.lock_timeout);
    progress("checking");
    board.emplace();
    if (mark && board->fingerprint && *mark != *board->fingerprint)  // VART aborts at it; this says so first
      throw Refused(arguments.xmodel + " is compiled for a DPU of fingerprint " + *mark + ", this board's has " +
                    *board->fingerprint + "; " + other_mark_advice(*mark, *board->fingerprint));
    power.emplace();
    const double end = now_s() + 1;
    if (power->name) idle = power->mean([&] { return now_s() >= end; });
    const size_t cores = static_cast<size_t>(board->cores.value_or(kUsualCores));
    for (size_t i = 0; i < (arguments.threads ? arguments.threads : 2 * cores); ++i)
      networks.push_back(std::make_unique<Network>(subgraph));
  }
};

// Latency, throughput, power and temperature, as entries of the report.
Entries measure(Ready& ready, const Images& all, const Arguments& arguments) {
  progress("warming up");
  const size_t repeats = std::max(kLeastRepeats, arguments.repeats);
  const Number start_degrees = temperature();
  const Images images{all.values, std::min(all.count, kMeasured)};
  for (const double end = now_s() + arguments.seconds / 4; now_s() < end;) run_all(ready.networks, images);
  const std::string latency = measure_latency(*ready.networks[0], images, arguments.seconds, repeats);
  Number busy;
  std::atomic<bool> stop{!ready.power->name};
  std::thread reader([&] { busy = ready.power->mean([&] { return stop.load(); }); });
  std::string throughput;
  std::exception_ptr error;
  try {
    throughput = measure_throughput(ready.networks, images, arguments.seconds, repeats);
  } catch (...) {
    error = std::current_exception();
  }
  stop = true;
  reader.join();
  if (error) std::rethrow_exception(error);
  const Number end_degrees = temperature();
  const bool powered = ready.idle && busy, warm = start_degrees && end_degrees;
  const std::string why = ready.power->name ? "not measured: the sensor " + *ready.power->name + " gave no reading in that time"
                                            : "not available: no INA226 or other power sensor in hwmon";
  const Entries watts{{"idle_w", number(ready.idle)}, {"busy_w", number(busy)}, {"sensor", text_or_null(ready.power->name)}};
  const Entries degrees{{"start", number(start_degrees)}, {"end", number(end_degrees)}};
  return {{"latency", latency},
          {"throughput", throughput},
          {"power", powered ? object(watts) : "null"},
          {"power_note", powered ? "null" : text(why)},
          {"temperature_c", warm ? object(degrees) : "null"}};
}

int run_job(const Arguments& arguments) {
  const double begin = now_s();
  const Array array(arguments.images, "images", "|i1", 1);
  std::optional<Array> labels;
  if (!arguments.labels.empty()) labels.emplace(arguments.labels, "labels", "<i8", 8);
  if (labels && labels->shape != std::vector<size_t>{array.shape[0]})
    throw Refused("there are " + std::to_string(array.shape[0]) + " images and labels of shape " + list(labels->shape) +
                  "; expected one for each image");
  if (!arguments.logits.empty()) check_place("--logits", arguments.logits);
  Ready ready(arguments);
  const Network& network = *ready.networks[0];
  if (array.shape.size() != 4 || array.shape[0] == 0 ||
      !std::equal(network.shape.begin(), network.shape.end(), array.shape.begin() + 1, array.shape.end()))
    throw Refused("the images in " + arguments.images + " have shape " + list(array.shape) + ", the xmodel takes [N, " +
                  list(network.shape).substr(1));
  const Images images{array.int8s(), array.shape[0]};
  const double start = now_s();
  const std::vector<int8_t> logits = run_all(ready.networks, images);
  const double image_seconds = now_s() - start;
  if (!arguments.logits.empty()) write_file(arguments.logits, npy(logits, images.count));
  const std::string correct = labels ? std::to_string(right_ones(logits, network.out_size, *labels)) : "null";
  const auto fix = [](const std::optional<int>& position) { return position ? std::to_string(*position) : "null"; };
  const Entries xmodel{{"sha256", text(sha256_of(arguments.xmodel))}, {"fingerprint", text_or_null(ready.mark)}};
  Entries report{
      {"format", "1"},
      {"runner", text("cpp")},
      {"runner_version", text(kVersion)},
      {"xmodel", object(xmodel)},
      {"board", ready.board->json()},
      {"input", object({{"shape", list(network.shape)}, {"fix_position", fix(network.in_fix)}})},
      {"output", object({{"shape", list(network.out_shape)}, {"fix_position", fix(network.out_fix)}})},
      {"images",
       object({{"count", std::to_string(images.count)}, {"correct", correct}, {"seconds", number(image_seconds)}})},
  };
  for (auto& entry : measure(ready, images, arguments)) report.push_back(std::move(entry));
  report.insert(report.end(), {{"measured_at", text(iso_time())}, {"seconds", number(now_s() - begin)}});
  write_file(arguments.result, object(report) + "\n");
  return 0;
}

int guarded(const std::function<int()>& work) {
  try {
    return work();
  } catch (const Refused& error) {
    std::cerr << "error: " << error.what() << std::endl;
    return 2;
  } catch (const BoardFault& error) {
    std::cerr << "error: " << error.what() << std::endl;
    return 3;
  } catch (const BoardBusy& error) {
    std::cerr << "error: " << error.what() << std::endl;
    return 4;
  } catch (const std::exception& error) {
    std::cerr << "bug: " << error.what() << std::endl;
    return 1;
  }
}

}  // namespace

int main(int count, char** words) {
  return guarded([&] {
    const Arguments arguments = parse(Strings(words + 1, words + count));
    if (arguments.help) {
      std::cout << kUsage;
      return 0;
    }
    check_place("--result", arguments.result);
    return watch([&] { return guarded([&] { return arguments.probe ? run_probe(arguments) : run_job(arguments); }); });
  });
}

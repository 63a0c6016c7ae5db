# What a C++ program needs to run compiled models, as an archive: the linker takes from it what is used. Built on demand,
# without the rooms that only Python, the C table and decoders use.
get_target_property(_sources edgekern SOURCES)
list(FILTER _sources EXCLUDE REGEX "^csrc/(calibration|capi|decoder|kvcache)/|^csrc/memory/(planner|improve|search|sections|pool)")
add_library(edgekern_runner STATIC EXCLUDE_FROM_ALL ${_sources})
target_link_libraries(edgekern_runner PRIVATE edgekern_options PUBLIC Threads::Threads)
target_link_options(edgekern_runner PUBLIC -Wl,--gc-sections)

# Runs a model on raw bytes: what bench/bench_binary_size.py weighs.
add_executable(small_runner EXCLUDE_FROM_ALL tests/downstream/small_runner.cpp)
target_link_libraries(small_runner PRIVATE edgekern_options edgekern_runner)
target_link_options(small_runner PRIVATE -static-libstdc++ -static-libgcc)

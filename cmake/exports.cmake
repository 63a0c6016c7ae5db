# What libedgekern shows and how it is found: the names of the C table alone, under the version of its ABI, which is the
# SONAME's, too. The extension module uses rooms of the core, which a wheel has once: there, and only there, C++ names are
# exported, under the version EDGEKERN_PRIVATE (docs/decisions/0030-one-core-two-faces.md).
file(STRINGS csrc/include/edgekern/edgekern.h _line REGEX "^#define EDGEKERN_ABI_VERSION ")
string(REGEX REPLACE "[^0-9]*([0-9]+).*" "\\1" EDGEKERN_ABI "${_line}")
set_target_properties(edgekern PROPERTIES SOVERSION ${EDGEKERN_ABI})

set(_map "EDGEKERN_${EDGEKERN_ABI} {\n  global: edgekern_get_api; ek_get_num_threads; ek_set_num_threads;\n  local: *;\n};\n")
if(EDGEKERN_BUILD_PYTHON)
  string(APPEND _map "EDGEKERN_PRIVATE {\n  global: _Z*2ek*;\n};\n")
endif()
file(CONFIGURE OUTPUT ${PROJECT_BINARY_DIR}/edgekern.map CONTENT "${_map}" @ONLY)
target_link_options(edgekern PRIVATE -Wl,--version-script=${PROJECT_BINARY_DIR}/edgekern.map)
set_property(TARGET edgekern APPEND PROPERTY LINK_DEPENDS ${PROJECT_BINARY_DIR}/edgekern.map)

# The same objects with every name, for the C++ tests and fuzzers.
get_target_property(_kernels edgekern SOURCES)
list(FILTER _kernels INCLUDE REGEX "TARGET_OBJECTS")
add_library(edgekern_core STATIC EXCLUDE_FROM_ALL $<TARGET_OBJECTS:edgekern> ${_kernels})
target_link_libraries(edgekern_core PUBLIC Threads::Threads)
set_target_properties(edgekern_core PROPERTIES LINKER_LANGUAGE CXX)

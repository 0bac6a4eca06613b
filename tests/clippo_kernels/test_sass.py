"""Reading machine code, on short texts in nvdisasm's form."""

import pytest

from clippo_kernels.sass import Path, parse, passes_at_once, usual_path

# A loop that a guard may skip, with a rare branch inside of it and an early return before it. The wait of one
# instruction stands behind the end, as compilers place it, and the last line fills up the code.
LOOP = """
\t.target\tsm_90a
kernel:
.text.kernel:
        /*0000*/                   LDC R1, c[0x0][0x28] ;
        /*0010*/               @P0 EXIT ;
        /*0020*/                   SYNCS.PHASECHK.TRANS64.TRYWAIT P0, [UR9], R0 ;
        /*0030*/              @!P0 BRA `(.L_x_4) ;
.L_x_5:
        /*0040*/               @P4 BRA `(.L_x_3) ;
.L_x_1:
        /*0050*/                   HGMMA.64x64x16.F32.BF16 R24, R40, gdesc[UR20], R24 ;
        /*0060*/              @!P1 BRA `(.L_x_2) ;
        /*0070*/                   FADD R2, R2.reuse, R3 ;
        /*0080*/                   FADD R2, R2, R3 ;
.L_x_2:
        /*0090*/              @!PT LDS RZ, [RZ] ;
        /*00a0*/                   LDGSTS.E.BYPASS.128 [R35], desc[UR40][R30.64], P1 ;
        /*00b0*/              @!P4 BRA `(.L_x_1) ;
.L_x_3:
        /*00c0*/                   STG.E.128 desc[UR40][R24.64], R36 ;
        /*00d0*/                   EXIT ;
.L_x_4:
        /*00e0*/                   SYNCS.PHASECHK.TRANS64.TRYWAIT P0, [UR9], R0 ;
        /*00f0*/              @!P0 BRA `(.L_x_4) ;
        /*0100*/                   BRA `(.L_x_5) ;
.L_x_6:
        /*0110*/                   BRA `(.L_x_6);
        /*0120*/                   NOP;
.L_x_7:
"""

PTX = """
$L__BB0_1:
\twgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {%f1}, %rd1;
\tcp.async.cg.shared.global [ %r1 + 0 ], [ %rd2 + 0 ], 0x10, %r2;
\t@%p1 bra \t$L__BB0_1;
"""


def opcodes(instructions):
    return [instruction.opcode for instruction in instructions]


def test_instructions():
    code = parse(LOOP)
    assert len(code.instructions) == 19
    assert code.labels == {
        ".L_x_1": 0x50, ".L_x_2": 0x90, ".L_x_3": 0xC0, ".L_x_4": 0xE0, ".L_x_5": 0x40, ".L_x_6": 0x110,
    }  # fmt: skip
    product = code.instructions[5]
    assert (product.address, product.predicate, product.name) == (0x50, "", "HGMMA")
    assert product.operands == "R24, R40, gdesc[UR20], R24"
    assert code.instructions[9].predicate == "@!PT"


def test_text_without_instructions():
    with pytest.raises(ValueError, match="expected the text of a disassembly with instructions, got 'no'"):
        parse("no")


def test_usual_path():
    path = usual_path(parse(LOOP))
    assert opcodes(path.before) == ["LDC", "EXIT", "SYNCS.PHASECHK.TRANS64.TRYWAIT", "BRA", "BRA"]
    # The rare branch is left out, and the wait behind the end is no loop of the program.
    assert opcodes(path.loop) == ["HGMMA.64x64x16.F32.BF16", "BRA", "LDS", "LDGSTS.E.BYPASS.128", "BRA"]
    assert opcodes(path.after) == ["STG.E.128", "EXIT"]


def test_an_exit_inside_of_the_loop():
    path = usual_path(
        parse("""
.L_x_0:
        /*0000*/                   FADD R2, R2, R3 ;
        /*0010*/               @P0 EXIT ;
        /*0020*/                   BRA `(.L_x_0) ;
""")
    )
    assert path.before == path.after == ()
    assert opcodes(path.loop) == ["FADD", "EXIT", "BRA"]


def test_without_a_loop_the_largest_block_is_on_the_path():
    path = usual_path(
        parse("""
        /*0000*/               @P0 BRA `(.L_x_0) ;
        /*0010*/                   FADD R2, R2, R3 ;
        /*0020*/                   FADD R2, R2, R3 ;
.L_x_0:
        /*0030*/                   EXIT ;
""")
    )
    assert opcodes(path.before) == ["BRA", "FADD", "FADD", "EXIT"]
    assert path.loop == path.after == ()


def test_a_wait_inside_of_the_loop_is_part_of_it():
    path = usual_path(
        parse("""
.L_x_0:
        /*0000*/                   FADD R2, R2, R3 ;
.L_x_1:
        /*0010*/                   SYNCS.PHASECHK.TRANS64.TRYWAIT P0, [UR9], R0 ;
        /*0020*/              @!P0 BRA `(.L_x_1) ;
        /*0030*/               @P1 BRA `(.L_x_0) ;
        /*0040*/                   EXIT ;
""")
    )
    assert opcodes(path.loop) == ["FADD", "SYNCS.PHASECHK.TRANS64.TRYWAIT", "BRA", "BRA"]
    assert opcodes(path.after) == ["EXIT"]


@pytest.mark.parametrize("branch", ["@P0 BRA `(.L_x_0)", "BRA UP0, `(.L_x_0)", "BRA.DIV UR4, `(.L_x_0)"])
def test_branches_that_may_not_be_taken(branch):
    path = usual_path(
        parse(f"""
        /*0000*/              {branch} ;
        /*0010*/                   FADD R2, R2, R3 ;
        /*0020*/                   FADD R2, R2, R3 ;
        /*0030*/                   EXIT ;
.L_x_0:
        /*0040*/                   BRA `(.L_x_0) ;
""")
    )
    assert opcodes(path.before)[1:] == ["FADD", "FADD", "EXIT"]


def test_unrolled_loops():
    path = usual_path(parse(LOOP))
    assert passes_at_once(PTX, path) == 1
    assert passes_at_once(PTX, Path((), path.loop * 4, ())) == 4
    assert passes_at_once("", path) == 1  # the compiler had already removed the loop
    copies = PTX.replace("wgmma.mma_async", "")
    assert passes_at_once(copies, Path((), path.loop * 2, ())) == 2

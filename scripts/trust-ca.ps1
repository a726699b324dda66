<#
.SYNOPSIS
Makes Docker Desktop on Windows trust the CA of a private registry.

.DESCRIPTION
Adds the CA's certificate to the Windows store of trusted roots, which Docker Desktop reads when it starts, and to
%USERPROFILE%\.docker\certs.d\<registry>\ca.crt. Running it again changes nothing. Restart Docker Desktop afterwards.

.PARAMETER Registry
HOST or HOST:PORT as in image names.

.PARAMETER Ca
The CA's certificate (ca.crt of scripts/gen-certs).

.PARAMETER AllUsers
Use the machine's store instead of the user's (run PowerShell as administrator).

.PARAMETER Remove
Remove the certificate.

.EXAMPLE
powershell -ExecutionPolicy Bypass -File trust-ca.ps1 -Ca ca.crt -Registry registry.example.org:443

.EXAMPLE
powershell -ExecutionPolicy Bypass -File trust-ca.ps1 -Ca ca.crt -Registry registry.example.org:5000 -AllUsers
#>
[CmdletBinding()]
param(
    [Parameter(Mandatory = $true)][string]$Registry,
    [string]$Ca = 'ca.crt',
    [switch]$AllUsers,
    [switch]$Remove
)
Set-StrictMode -Version Latest
$ErrorActionPreference = 'Stop'

if ($Registry -notmatch '^[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?(:[0-9]{1,5})?$') {
    throw "'$Registry' is not HOST or HOST:PORT"
}
if (-not (Test-Path -LiteralPath $Ca -PathType Leaf)) {
    throw "cannot read '$Ca': copy ca.crt from the registry's machine, and set -Ca"
}
$path = (Resolve-Path -LiteralPath $Ca).ProviderPath
$certificate = New-Object System.Security.Cryptography.X509Certificates.X509Certificate2 -ArgumentList $path
$constraints = $certificate.Extensions |
    Where-Object { $_ -is [System.Security.Cryptography.X509Certificates.X509BasicConstraintsExtension] }
if (-not $constraints -or -not $constraints.CertificateAuthority) {
    throw "'$Ca' is not a CA's certificate: use ca.crt, not registry.crt"
}
if ($certificate.HasPrivateKey -or (Select-String -LiteralPath $path -Pattern 'PRIVATE KEY' -Quiet)) {
    throw "'$Ca' contains a private key: use only the certificate"
}

$location = if ($AllUsers) { 'LocalMachine' } else { 'CurrentUser' }
# Windows file names cannot contain a colon, so Docker Desktop reads the folder without the port's colon
$folder = Join-Path (Join-Path (Join-Path $env:USERPROFILE '.docker') 'certs.d') ($Registry -replace ':', '')
$store = New-Object System.Security.Cryptography.X509Certificates.X509Store -ArgumentList 'Root', $location
$store.Open('ReadWrite')
try {
    $known = @($store.Certificates | Where-Object { $_.Thumbprint -eq $certificate.Thumbprint })
    if ($Remove) {
        foreach ($one in $known) { $store.Remove($one) }
        if (Test-Path -LiteralPath $folder) { Remove-Item -LiteralPath $folder -Recurse -Force }
        Write-Output "Removed from $location\Root and from $folder"
    }
    else {
        if ($known.Count -eq 0) { $store.Add($certificate) }
        New-Item -ItemType Directory -Force -Path $folder | Out-Null
        Copy-Item -LiteralPath $path -Destination (Join-Path $folder 'ca.crt') -Force
        Write-Output "Trusted in $location\Root, and for $Registry in $folder"
        Write-Output "Compare on the registry's machine: SHA-1 thumbprint $($certificate.Thumbprint)"
    }
}
finally {
    $store.Close()
}
Write-Output 'Restart Docker Desktop: it reads certificates when it starts.'
